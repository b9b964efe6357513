"""The steps of a training: state, step function, compiled steps, the loop, evaluations between steps, the last save.

How a model, a loss, an update rule or a checkpoint works belongs to `models`, `objectives`, `optim` and `checkpoint`.
"""
