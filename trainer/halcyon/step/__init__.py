"""The compiled step of a training: its state, its loss, its program, and what is read from the program before it runs.

Models, update rules and the mesh belong to `models`, `optim` and `parallel`; the loop that calls the step belongs to
`run`.
"""
