"""The batches of the objective `policy`: prompts of the dataset, answers that the model samples, rewards, advantages.

`batches` makes the batch of a step, `answers` turns prompts and answers into arrays, `rewards` finds and calls the
reward function, `records` keeps rewards and some answers beside the checkpoints, `advantages` has the statistics of
groups.
"""
