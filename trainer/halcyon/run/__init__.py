"""A run: the process and its end, the tasks of `spec.task`, how a training begins, the loop over its steps, and what
runs beside them.

A task (`train`, `evaluate`, `data`) is a script that calls the other packages in order and reads top to bottom.
"""
