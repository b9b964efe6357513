"""The command line as the user typed it, for hints that repeat it."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def program() -> str:
    """The word by which this shell starts halcyon: its path, or `halcyon` where the shell finds it by that name."""
    path = Path(sys.argv[0])
    if not path.name.startswith("halcyon"):
        return "halcyon"  # python -m
    found = shutil.which("halcyon")
    return "halcyon" if found is not None and Path(found).resolve() == path.resolve() else shlex.quote(sys.argv[0])


def typed_command(without: Sequence[str]) -> str:
    """The command with its arguments, quoted for a shell.

    Args:
        without: Options without a value that are left out.
    """
    return " ".join([program(), *(shlex.quote(word) for word in sys.argv[1:] if word not in without)])
