"""Plain values about runs: views of objects, endings, history, decisions, and rules that the other packages share.

Nothing here does I/O, reads a clock or decides what happens next; a module here imports only other modules of `model`.
"""
