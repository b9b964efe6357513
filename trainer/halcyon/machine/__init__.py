"""The machine that the process runs on: its memory, scheduling, limits, environment variables, files and metadata server.

Nothing here depends on models or steps. No module imports JAX at its top, because commands and pods use these modules before JAX starts.
"""
