"""The process of `halcyon.host.limits.apart`: makes objects, calls their methods, and is ended by the kernel when a
call takes too long.

It imports only the standard library, and what the objects need. An allocation beyond its memory fails, so Python raises
``MemoryError``.
"""

import importlib
import json
import resource
import signal
import sys
from collections import OrderedDict
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

RETURNED, RAISED, TIME, KILLED, MEMORY, LENGTH = "returned", "raised", "time", "killed", "memory", "length"
"""Kinds of an answer. A process that needs too much time, or was killed, gives none."""
ANSWER_BYTES, ANSWER_GROWTH = 4 * 2**20, 32
"""An answer may have these bytes, and this multiple of those of its call."""
_KEPT = 64
"""Objects that are kept; the one that was used the longest time ago is made again."""
_STACK_FRAMES = 2000


def main() -> None:
    """Answer calls until the other side closes the connection.

    Argument of the command: file descriptor.
    """
    connection = Connection(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(_STACK_FRAMES)
    kept: OrderedDict[str, Any] = OrderedDict()
    made: dict[str, list[Any]] = {}
    limited: set[str] = set()
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):
            return
        connection.send_bytes(_answer(kept, made, limited, request))


def _answer(kept: OrderedDict[str, Any], made: dict[str, list[Any]], limited: set[str], request: bytes) -> bytes:
    key, how, method, args, seconds, memory_bytes = json.loads(request)
    if how is not None:
        made[key] = how
    module, name, values = made[key]
    if module not in sys.modules:
        importlib.import_module(module)
    if memory_bytes and module not in limited:
        _limit_memory(memory_bytes)
        limited.add(module)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process, whatever it does
    try:
        if key not in kept:
            kept[key] = getattr(sys.modules[module], name)(*values)
            while len(kept) > _KEPT:
                kept.popitem(last=False)
        kept.move_to_end(key)
        answer = json.dumps((RETURNED, getattr(kept[key], method)(*args))).encode()
        if len(answer) > ANSWER_BYTES + ANSWER_GROWTH * len(request):
            answer = json.dumps((LENGTH, None)).encode()
    except MemoryError:
        answer = json.dumps((MEMORY, None)).encode()
    except BaseException as error:  # it is code of strangers
        answer = json.dumps((RAISED, _first_line(error))).encode()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return answer


def _first_line(error: BaseException) -> str:
    with suppress(Exception):
        return next(iter(str(error).splitlines()), "")[:1000] or type(error).__name__
    return type(error).__name__


def _limit_memory(more_bytes: int) -> None:
    """Allow some memory beyond what the process has now.

    Linux counts it for a limit of data; other systems have no such count.
    """
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        limit = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
