"""The update rules, one file each; `halcyon.optim.rule` has their interface, `halcyon.optim.registry` their table."""
