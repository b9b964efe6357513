"""What the process asks of its operating system: memory, scheduling, limits, signals and names.

No module imports JAX at its top, because commands and pods use these modules before JAX starts.
"""
