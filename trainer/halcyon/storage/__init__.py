"""Access to stores and folders: whole values with compare-and-swap, atomic files, locks, failures, retries.

`checkpoint` and `data` use it alike, so it knows neither of them, nor the training.
"""
