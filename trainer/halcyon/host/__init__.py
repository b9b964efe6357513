"""The ground of the trainer: what the process asks of its operating system (memory, scheduling, limits, signals,
names), its stores (`storage`), and the errors that end it (`errors`).

No module imports JAX at its top, because commands and pods use these modules before JAX starts.
"""
