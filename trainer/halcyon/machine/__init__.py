"""The machine that the process runs on: its memory, limits, environment variables, files, metadata server and imports.

Nothing here knows models or steps, and no module imports JAX at its top: a command and a pod use these before JAX starts.
"""
