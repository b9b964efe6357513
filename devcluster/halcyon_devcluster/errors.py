"""The one exception that this package raises on purpose.

Its text is a sentence for the person at the terminal: what is wrong and what mends it. The command line prints it without a
traceback; anything else that escapes is a fault of this package and is shown with one.
"""


class DevclusterError(Exception):
    """Something the person can mend; the message says what and how."""
