"""Reads what a decision needs, from the API server, the watches, checkpoint roots and trainers, and turns documents into views.

Nothing here decides about a run or writes to the cluster; parsers take any input and never raise.
"""
