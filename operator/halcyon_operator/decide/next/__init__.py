"""Chooses the next step of a run from its recorded status, by tables, and converts it to a decision: which objects are
created and deleted, and when the next reconcile comes.
"""
