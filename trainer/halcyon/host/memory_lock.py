"""Raises the limit of locked memory (RLIMIT_MEMLOCK), because TPU runtimes and RDMA need more than a container has by
default.

Kubernetes cannot set this limit for a container. A process that may raise it (root with SYS_RESOURCE, or privileged)
does so itself; for other processes nothing changes.
"""

from __future__ import annotations

import resource
from contextlib import suppress

NO_LIMIT = resource.RLIM_INFINITY


def raise_memory_lock() -> int:
    """Raise the limit as far as this process may, and return it in bytes (`NO_LIMIT`: unlimited)."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for wanted in ((NO_LIMIT, NO_LIMIT), (hard, hard)):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, wanted)
            break
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
