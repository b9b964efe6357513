"""The machine that the process runs on: its memory, limits, environment variables, files, metadata server and imports.

Nothing here depends on models or steps. No module imports JAX at its top, because commands and pods use these modules before JAX starts.
"""
