"""``halcyon`` as it is, but that one of its steps goes wrong: ``python -m tests.trainer.trouble_child train RUN.YAML ...``.

HANG=STEP,PROCESS: that process never gets the batch of that step (counted from 0). POISON=STEP: the loss weights of that step are no
numbers.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import Any

from halcyon.cli import app
from halcyon.data.loader import Loader

batch = Loader.batch


def troubled_batch(loader: Loader, step: int) -> Any:
    hang_step, hang_process = (int(part) for part in os.environ.get("HANG", "-1,-1").split(","))
    if step == hang_step and int(os.environ["HALCYON_JOB_INDEX"]) == hang_process:
        wait_for_a_batch_that_never_comes()
    poisoned = int(os.environ.get("POISON", "-2"))
    made = batch(loader, step)
    return replace(made, weights=made.weights * float("nan")) if step == poisoned else made


def wait_for_a_batch_that_never_comes() -> None:
    threading.Event().wait()


if __name__ == "__main__":
    Loader.batch = troubled_batch  # type: ignore[method-assign]
    app()
