"""The only exception that this package raises on purpose.

Its text is a sentence for the user: the problem and the fix. The command line prints it without a traceback. Any other
exception is a bug of this package and is shown with its traceback.
"""


class DevclusterError(Exception):
    """A problem that the user can fix; the message names the problem and the fix."""
