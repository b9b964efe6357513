"""A process of ``halcyon`` that ends with its parent: `python -m halcyon.commands.child PARENT ARGUMENT…`.

It saves and ends if its parent is killed. Otherwise it would train on beside the process that the next call of the
same command starts, until it loses the root.
"""

import os
import signal
import sys

from halcyon.host.linux import end_with_parent
from halcyon.host.root_lock import PARENT


def main() -> None:
    """Run the command line of `halcyon` with the arguments after the parent's process id."""
    parent = int(sys.argv.pop(1))
    end_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        return
    os.environ[PARENT] = str(parent)
    from halcyon.commands.main import app

    app()


if __name__ == "__main__":
    main()
