"""How much memory a process may keep from being paged out, which TPU runtimes and RDMA need more of than a container may have by default.

A container cannot be given another limit from outside. A process that is allowed to raise it (root with SYS_RESOURCE, or privileged) does
it itself; for any other nothing changes.
"""

from __future__ import annotations

import resource
from contextlib import suppress

NO_LIMIT = resource.RLIM_INFINITY


def raise_memory_lock() -> int:
    """Raise the limit as far as this process may, and return it in bytes (`NO_LIMIT` where there is none)."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for wanted in ((NO_LIMIT, NO_LIMIT), (hard, hard)):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, wanted)
            break
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
