"""What a process does: each stage, the cause of its time, its limit, and its words for people."""

import math
from typing import NamedTuple

from halcyon_api.status.progress import Stage


class StageRow(NamedTuple):
    """One stage."""

    cause: str
    """Cause of its time (`halcyon_api.status.goodput`)."""
    part: str | None
    """The part of the start that it is before the first step has ended (`StartupSeconds`)."""
    limit_seconds: float
    """Longest time from its beginning in a healthy process; that of steps is computed from earlier ones."""
    words: str | None
    """What a person reads; None: the numbers of the last step."""


STAGES: dict[Stage, StageRow] = {
    "starting": StageRow("startup", "imports", 900.0, "starting"),
    "joining": StageRow("join", "join", 3600.0, "looking for devices"),
    # The limit is from the last part of the text that this process has tokenized; another one may tokenize all text.
    "tokenizing": StageRow("data_wait", "data", 7200.0, "tokenizing the text"),
    "restoring": StageRow("restore", "restore", 7200.0, "preparing the model"),
    "compiling": StageRow("compile", "compile", 7200.0, "compiling the step (first time, about a minute)"),
    # In a run that trains; other tasks have another productive stage, see `TimeAccount.work`. The first step compiles
    # even if no stage was reported.
    "training": StageRow("productive_step", "compile", math.inf, None),
    # In a run that only evaluates, the limit is from its last batch.
    "evaluating": StageRow("evaluation", "compile", 7200.0, "evaluating"),
    "sampling": StageRow("productive_step", "compile", 7200.0, "sampling answers"),
    "waiting": StageRow("pool_wait", "compile", math.inf, "waiting for the other side of the pool"),
    "auditing": StageRow("audit", "compile", 7200.0, "auditing the devices"),
    "saving": StageRow("save_blocking", None, 7200.0, "saving"),
    "leaving": StageRow("save_blocking", None, 7200.0, "saving the last step"),  # it waits for its last save
    "done": StageRow("other", None, math.inf, None),
}
