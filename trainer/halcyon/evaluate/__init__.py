"""Results of evaluations and the document that stores them. Pure.

`halcyon.training.evaluation` computes the results; `halcyon.tasks.evaluate` runs the task.
"""
