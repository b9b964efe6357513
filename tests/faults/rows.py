"""The rows of docs/reliability.md: each fault, and what must hold under it. A test says by `@rows.NAME` which row it belongs to."""

from __future__ import annotations

import pytest

KILLS = pytest.mark.fault(
    row="SIGKILL of any process at a random moment of a step, a save, a commit, a deletion or a restore",
    holds="never a wrong or mixed restore; never more lost than since the last commit; bitwise the same run in the end",
)
DAMAGE = pytest.mark.fault(
    row="Flipped bits, truncations, missing and exchanged files, over every file of a checkpoint",
    holds="every one is detected and the checkpoint before is restored; nothing wrong is restored in silence",
)
TWO_WRITERS = pytest.mark.fault(
    row="Two writers on one root: the older is stopped in mid-save (SIGSTOP), replaced, and woken",
    holds="the newer wins; the older leaves with the fenced code; nothing of the newer is touched",
)
STORE = pytest.mark.fault(
    row="The store refuses, stalls, answers 429 or 503, loses the answer of a write that it did, or lists late",
    holds="tried again within bounds, or reported; no commit is made twice or lost",
)
CREDENTIALS = pytest.mark.fault(
    row="The store refuses the credentials of a process that starts: 401, 403, an expired token",
    holds="asked again for `checkpoint.accessRetrySeconds` with credentials read anew, then exit code 85; a notice ends the wait for free",
)
SOURCES = pytest.mark.fault(
    row="The store of a source or of a tokenizer refuses, is overloaded or does not answer: 401, 403, an expired token, 429, 5xx, a reset",
    holds=(
        "asked again for `checkpoint.accessRetrySeconds`, then exit code 87, after which the operator tries again ever more rarely; the "
        "run goes on bitwise as an undisturbed one; a notice ends the wait for free"
    ),
)
ROOT = pytest.mark.fault(
    row="Disk or quota full in mid-save, root read-only in mid-run, clock an hour back between attempts",
    holds="training goes on and the failure is told; old checkpoints stay whole; no order depends on a clock",
)
NETWORK = pytest.mark.fault(
    row="Network between two processes cut for 5 s and for 5 min",
    holds="a short cut is survived or ends in a clean restart; a long one ends both, and a restart goes on; no two runs at once",
)
CONTROL_PLANE = pytest.mark.fault(
    row="Operator, API server or both down during a preemption",
    holds="training goes on; the JobSet restarts the run by itself; the operator catches up with a true history",
)
TOPOLOGY = pytest.mark.fault(
    row="Restored on other devices, another mesh or other processes than it was saved on, and as another type by request",
    holds="gathered arrays are bit-equal where the type is",
)
