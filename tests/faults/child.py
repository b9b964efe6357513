"""Roles of child processes that only the fault tests use: ``python -m tests.faults.child ROLE JSON``."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halcyon.checkpoint import Callbacks, SaveFailed
from halcyon.host.storage import store
from tests.faults import moments
from tests.faults.denied import deny
from tests.trainer.checkpoint import child
from tests.trainer.checkpoint.child import say
from tests.trainer.checkpoint.helpers import Root, numbers, open_root, restore_newest, same_bits, save_step
from tests.trainer.checkpoint.processes import Child


class FaultChild(Child):
    """A child of this module."""

    module = "tests.faults.child"


def trainers(root: Root, options: dict[str, Any]) -> None:
    """Read paths of run documents from stdin; for each, fork a `halcyon train` after all imports are done, and report
    how it ended.

    A path may be followed by a step, counted from 0. The run never gets the batch of this step, so it does not end by
    itself.
    """
    import halcyon.run.train  # noqa: F401 - the slow import
    from halcyon.run.process import run_training

    for line in sys.stdin:
        document, _, step = line.strip().partition(" ")
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            try:
                if step:
                    _hang_at(int(step))
                run_training(
                    Path(document),
                    os.environ,
                    checkpoint_root=None,
                    json_lines=True,
                    compilation_cache=Path(options["compilation"]),
                )
            finally:
                say(event="crashed", text=traceback.format_exc())
                os._exit(1)
        say(event="forked", pid=pid)
        _, status = os.waitpid(pid, 0)
        say(event="over", code=os.waitstatus_to_exitcode(status))


def _hang_at(step: int) -> None:
    """Make the loader block forever at the batch of a step."""
    from halcyon.data.loader import Loader

    batch = Loader.batch

    def hanging(loader: Any, asked: int, state: Any) -> Any:
        if asked == step:
            threading.Event().wait()
        return batch(loader, asked, state)

    Loader.batch = hanging  # type: ignore[method-assign]


def over_quota(root: Root, options: dict[str, Any]) -> None:
    """Save twice, then twice more while `fsync` fails with an exceeded quota."""
    with open_root(root, callbacks=Callbacks(on_failure=lambda text: say(event="failed", text=text))) as checkpointer:
        for step in range(1, 5):
            if step == 3:
                deny("fsync", errno.EDQUOT)
            save_step(checkpointer, step)
            try:
                checkpointer.finish()
            except SaveFailed as failed:
                say(event="goes on", text=str(failed))


def killed_at_a_write(root: Root, options: dict[str, Any]) -> None:
    """Restore the last commit, and SIGKILL this process before write number `write` of the next save, or after all
    writes.
    """
    checkpointer = open_root(root)
    restored = restore_newest(checkpointer)
    step = restored.step if restored else 0
    say(event="restored", step=step, right=restored is None or same_bits(restored.state, numbers(step)))
    writes = itertools.count()

    def deadly(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            if next(writes) == options["write"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*arguments)

        return run

    store.Store.write = deadly(store.Store.write)
    store.Store.swap = deadly(store.Store.swap)
    save_step(checkpointer, step + 1)
    checkpointer.finish()
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Run the role that the arguments name."""
    options = json.loads(sys.argv[2])
    if "moments" in options:
        moments.record_activity(options["moments"])
    child.ROLES |= {"trainers": trainers, "over_quota": over_quota, "killed_at_a_write": killed_at_a_write}
    return child.main()


if __name__ == "__main__":
    sys.exit(main())
