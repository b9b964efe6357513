"""The history of a run: the numbers of its steps, its evaluations and its events, kept beside its checkpoints below
``metrics/``.

``segments`` has the names and the format of the files, ``merging`` bounds their number and size, ``writer`` writes them
in the background, ``reading`` puts them together, ``checking`` compares them with the chain of evidence.
``docs/design/history.md`` has the reasons. This package uses no device, and does not itself import JAX.

It has no names of its own: `halcyon.telemetry.history.background` is imported by every trainer process, and the other
modules import TensorStore.
"""
