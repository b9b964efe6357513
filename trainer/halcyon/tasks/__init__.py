"""What a run does, one module for each `spec.task`: scripts that read top to bottom and call the other packages in order.

Parts that two tasks share belong to the packages below, not here.
"""
