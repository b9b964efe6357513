"""The commands of `halcyon` that need no cluster. They read arguments, call the other packages and print.

No other trainer package imports this one. Computations and decisions belong to the packages that the commands call.
"""
