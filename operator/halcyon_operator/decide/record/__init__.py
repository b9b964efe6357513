"""Writes down in the status what was observed: checkpoints, process groups and their ends, the queue, edits, requests
for checkpoints and restarts, room for slices, goodput.

A file here changes the status and announces the change by events. It chooses no step and touches no object.
"""
