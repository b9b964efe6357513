"""The tasks of a run, one module for each `spec.task`: scripts that call the other packages in order and read top to bottom.

Code that two tasks share belongs to those packages, not here.
"""
