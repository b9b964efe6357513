"""The commands of `halcyon` that need no cluster: they read arguments, call the other packages, and print.

Nothing else imports this package. Computations and decisions belong to the packages that the commands call.
"""
