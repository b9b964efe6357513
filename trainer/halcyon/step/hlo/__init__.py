"""Reads compiled programs: pure functions over the text of an optimised HLO module. Nothing here imports JAX or
compiles.

`module` parses the text, `collectives` and `contents` list what is in the program, and `schedule` says how much of the
time of its collectives is covered by computation.
"""
