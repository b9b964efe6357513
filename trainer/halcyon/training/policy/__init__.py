"""The batches of the objective `policy`: prompts of the dataset, answers that the model samples, rewards, advantages.

`batches` puts a step together, `answers` turns prompts and answers into arrays, `rewards` finds and calls the reward function, `advantages`
has the statistics of groups.
"""
