"""Benchmarks on a model: their files, the questions, the model's answers and the scores. Documents call a benchmark a
task.

`core` is CORE, `tasks` has the other benchmarks, `benchmarks` names them, `likelihood` and `generation` ask a model,
`runner` asks it a benchmark and judges each answer, `shared` divides the questions among the processes of a run,
`scores` has the scores and their document, and `sandbox` runs the programs that a model wrote. The held-out part of a
step is in `halcyon.step.validation`.
"""
