"""The update rules, those of one kind in one file.

`halcyon.optim.rule` has their interface, `halcyon.optim.registry` their table.
"""
