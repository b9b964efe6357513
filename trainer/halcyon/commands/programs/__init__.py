"""Programs for hardware that is not there: the step of a document, compiled ahead of time for the accelerators that it
names.

`devices` describes the hardware to the compilers, and compiles the step; `gpus` has the facts and the speeds of
devices. Only tests, pages and `halcyon plan` use this package; a run compiles for the devices that it has.
"""
