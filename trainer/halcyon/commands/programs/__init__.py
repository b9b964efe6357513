"""Programs for hardware that is not there: the step of a document, compiled ahead of time for the accelerators that it
names.

`devices` describes the hardware to the compilers, and `compiling` compiles the step and reads it. Only tests, pages and
`halcyon show plan` use this package; a run compiles for the devices that it has.
"""
