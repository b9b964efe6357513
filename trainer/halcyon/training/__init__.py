"""The steps of a training: state, step function, compiled steps, the loop, evaluations between steps, the last save.

Models, losses, update rules and checkpoints belong to `models`, `objectives`, `optim` and `checkpoint`.
"""
