"""What the operator knows about a run, as plain values: views of objects, endings, history, decisions, and rules that every room needs.

Nothing here does I/O, reads a clock or decides what happens next; a module here imports only other modules of `model`.
"""
