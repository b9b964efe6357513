"""Trackers: other programs that show the numbers of a run, each fed by a thread of its own.

``tracker`` has the thread and what every tracker implements; ``kinds`` has the trackers, which import their libraries
only when the run begins; ``opening`` makes those of a run document.
"""
