"""Asks models: tasks and CORE on a model, many examples at once, and the interface of ``lm-eval``.

`likelihood` computes log-likelihoods of rows of tokens (with `rows`, `endings` and `logits`), `generation` texts with a calculator,
`prompts` makes tokens of prompts, `running` joins them with the tasks of `halcyon.evaluate.tasks`.
"""
