"""Access to stores and folders: whole values with compare-and-swap, atomic files, locks, failures, retries.

`checkpoint` and `data` both use this package, so it imports nothing of them or of the training.
"""
