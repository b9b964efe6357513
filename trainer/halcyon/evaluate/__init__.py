"""Results of evaluations, pure: what was found, and the document that keeps it.

Computing them belongs to `halcyon.training.evaluation`, the order of the work to `halcyon.tasks.evaluate`.
"""
