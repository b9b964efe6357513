"""The rows of docs/reliability.md: each fault, and what must hold under it.

The decorator `@rows.NAME` assigns a test to a row.
"""

from __future__ import annotations

import pytest

KILLS = pytest.mark.fault(
    row="SIGKILL of any process at a random moment of a step, a save, a commit, a deletion or a restore",
    holds="no wrong or mixed restore; at most the steps since the last commit are lost; at the end the run is bitwise "
    "the same",
)
IN_PLACE = pytest.mark.fault(
    row="A trainer, its spare process or its supervisor is killed, a pod gets a notice, or a byte of a snapshot in "
    "memory changes, where processes start again in their pods",
    holds="only the pod that was hit is replaced; a start takes the newest state that is whole, from the own memory, "
    "another pod or the store; all losses are bitwise those of an undisturbed run",
)
POOL = pytest.mark.fault(
    row="A run or a sampler of its pool is killed, also between two writes, stands still, is ten times as slow, or all are lost",
    holds="the run waits; every prompt is used once, and all losses and rewards are bitwise those of a run that samples "
    "by itself",
)
DAMAGE = pytest.mark.fault(
    row="Flipped bits, truncations, missing and exchanged files, over every file of a checkpoint",
    holds="every damage is detected and the previous checkpoint is restored; no wrong data is restored silently",
)
LOST_HEAD = pytest.mark.fault(
    row="HEAD is garbage, has a flipped bit, is cut, empty, missing or of a newer version, when a command starts in a "
    "fresh process",
    holds="no signal and no traceback; the run goes on from the newest checkpoint that verifies, and says why HEAD was "
    "rebuilt",
)
RECOVERIES = pytest.mark.fault(
    row="Two recoveries meet: rebuild of HEAD, return after divergence or wrong numbers, fallback over damage, an older "
    "checkpoint, take-over, other slices, deletion; with kills before any write",
    holds="what has left HEAD never comes back; the newest valid checkpoint of the others is restored; at the end the "
    "state is that of an undisturbed run",
)
CORRUPTION = pytest.mark.fault(
    row="A device computes wrong numbers, or a bit of its copy of the state changes, while the run is audited",
    holds="the audit names the process, or both of two; the run goes on from the last confirmed checkpoint, and its "
    "losses and its state are bitwise those of an undisturbed run; right numbers raise no alarm",
)
TWO_WRITERS = pytest.mark.fault(
    row="Two writers on one root: the older is stopped in mid-save (SIGSTOP), replaced, and woken",
    holds="the newer writer wins; the older one exits with the fenced code and changes no file of the newer",
)
STORE = pytest.mark.fault(
    row="The store refuses, stalls, answers 429 or 503, loses the answer of a write that it did, or lists late",
    holds="requests are retried within bounds, or the failure is reported; no commit is made twice or lost",
)
CREDENTIALS = pytest.mark.fault(
    row="The store refuses the credentials of a process that starts: 401, 403, an expired token",
    holds="retried for `checkpoint.accessRetrySeconds` with credentials read again, then exit code 85; a notice ends "
    "the wait, uncounted",
)
SOURCES = pytest.mark.fault(
    row="The store of a source or of a tokenizer refuses, is overloaded or does not answer: 401, 403, an expired "
    "token, 429, 5xx, a reset",
    holds=(
        "retried for `checkpoint.accessRetrySeconds`, then exit code 87, after which the operator retries with growing "
        "pauses; the run continues bitwise as an undisturbed one; a notice ends the wait, uncounted"
    ),
)
ROOT = pytest.mark.fault(
    row="Disk or quota full in mid-save, root read-only in mid-run, clock an hour back between attempts",
    holds="training continues and the failure is reported; old checkpoints stay intact; no order depends on a clock",
)
NETWORK = pytest.mark.fault(
    row="Network between two processes cut for 5 s and for 5 min",
    holds="the run survives a short cut or restarts cleanly; a long cut ends both processes and a restart continues; no "
    "two runs at once",
)
CONTROL_PLANE = pytest.mark.fault(
    row="Operator, API server or both down during a preemption",
    holds="training continues; the JobSet restarts the run without the operator; the operator then records the true "
    "history",
)
TOPOLOGY = pytest.mark.fault(
    row="Restored on other devices, another mesh or other processes than it was saved on, and as another type by "
    "request",
    holds="gathered arrays are bitwise equal if the type is the same",
)
