"""A process of `halcyon` that ends with its parent: `python -m halcyon_chat.child PARENT ARGUMENT…`.

When `make chat` is killed, the kernel kills the process of its stage too. Otherwise that process would train on, beside
the one that the next `make chat` starts, until it loses the root.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, or end now if the parent has ended already.

    Does nothing but on Linux.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Run the command line of `halcyon` with the arguments after the parent's process id."""
    end_with(int(sys.argv[1]))
    sys.argv = ["halcyon", *sys.argv[2:]]
    runpy.run_module("halcyon_cli.main", run_name="__main__")


if __name__ == "__main__":
    main()
