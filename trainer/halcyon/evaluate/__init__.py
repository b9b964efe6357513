"""Results of evaluations and the document that stores them, and tasks (`tasks`). Pure, except that tasks read their files.

`halcyon.training.evaluation` computes the results of held-out sequences, `halcyon.benchmarks` those of tasks; `halcyon.tasks.evaluate` runs
a document of task ``evaluate``.
"""
