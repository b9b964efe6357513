"""The batches of the objective `policy`: prompts of the dataset, answers that the model samples, rewards, advantages.

`batches` makes the batch of a step, `ahead` keeps the answers of later steps, `rollouts` has their files, `answers`
turns prompts and answers into arrays, `rewards` finds and calls the reward function, keeps rewards and some answers
beside the checkpoints, and has the statistics of groups. `environment` has `conversations` with a function of the user
in a process of its own (`environment_process`), such as `judge`.
"""
