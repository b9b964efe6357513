"""Reads the inputs of a decision from the API server, the watches, checkpoint roots and trainers, and parses documents
into views.

Nothing here decides about a run or writes to the cluster; parsers accept any input and never raise.
"""
