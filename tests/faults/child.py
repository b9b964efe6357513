"""Child processes of the fault tests beyond those of the checkpoint tests: ``python -m tests.faults.child ROLE JSON``."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from halcyon.checkpoint import SaveFailed
from tests.faults import moments
from tests.faults.denied import deny
from tests.trainer.checkpoint import child
from tests.trainer.checkpoint.child import say
from tests.trainer.checkpoint.helpers import Root, mesh, numbers, on, open_root, position
from tests.trainer.checkpoint.processes import Child


class FaultChild(Child):
    """A child of this module."""

    module = "tests.faults.child"


def trainers(root: Root, options: dict[str, Any]) -> None:
    """For each path of a run document that is read, fork a `halcyon train` of it, all imports done; and say how it ended."""
    from halcyon.lean_imports import without_unused_parts
    from halcyon.process import run_training

    with without_unused_parts():
        import halcyon.train  # noqa: F401 - what takes long
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            try:
                run_training(
                    Path(line.strip()), os.environ, checkpoint_root=None, json_lines=True, compilation_cache=Path(options["compilation"])
                )
            finally:
                say(event="crashed", text=traceback.format_exc())
                os._exit(1)
        say(event="forked", pid=pid)
        _, status = os.waitpid(pid, 0)
        say(event="over", code=os.waitstatus_to_exitcode(status))


def over_quota(root: Root, options: dict[str, Any]) -> None:
    """Save twice, then twice more while the system says that the quota is exceeded."""
    with open_root(root) as checkpointer:
        checkpointer.on_failure = lambda text: say(event="failed", text=text)
        for step in range(1, 5):
            if step == 3:
                deny("fsync", errno.EDQUOT)
            checkpointer.save(step, on(mesh(2, 2), numbers(step)), position(step))
            try:
                checkpointer.finish()
            except SaveFailed as failed:
                say(event="goes on", text=str(failed))


def main() -> int:
    """Play a role."""
    options = json.loads(sys.argv[2])
    if "moments" in options:
        moments.tell(options["moments"])
    child.ROLES |= {"trainers": trainers, "over_quota": over_quota}
    return child.main()


if __name__ == "__main__":
    sys.exit(main())
