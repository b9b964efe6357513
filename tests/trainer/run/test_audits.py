"""What a run says when an audit finds wrong numbers: the step that it names is the one from which the next start goes
on.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from halcyon.checkpoint import Callbacks, Checkpointer
from halcyon.checkpoint.head import edit, with_pin
from halcyon.host.errors import Corrupted
from halcyon.host.storage.store import Store
from halcyon.run.features.audits import Audits
from halcyon.run.programs import KeptPrograms, Programs
from halcyon.step.audit import Finding
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root, mesh, numbers, on, open_root, position, template, with_keep
from tests.trainer.checkpoint.roots import file_root
from tests.trainer.telemetry.fakes import Scene

__all__ = ["file_root"]


def audits_of(checkpointer: Checkpointer, scene: Scene, audited: int) -> Any:
    audits: Any = object.__new__(Audits)
    audits._spec, audits._checkpointer = SimpleNamespace(on_mismatch="goBack"), checkpointer
    audits._numbers = SimpleNamespace(audited=audited)
    audits._place = SimpleNamespace(reporter=scene.reporter)
    audits._program = SimpleNamespace(mesh=SimpleNamespace(devices=np.array([SimpleNamespace(process_index=0)] * 2)))
    return audits


@pytest.mark.parametrize(
    ("saved", "audited", "pinned", "kept", "clause"),
    [
        ((5, 10, 15), 10, None, 10, "the run goes on from step 10"),
        ((5, 10, 15), 5, 15, 5, "the run goes on from step 5"),
        ((5, 10), 0, None, 5, "the run goes on from step 5, which no audit has confirmed"),
        ((5, 10), 10, None, 10, "the run goes on from step 10"),
        ((), 0, None, None, "the run goes on from the beginning"),
    ],
)
def test_the_step_that_is_named_is_the_one_from_which_the_next_start_goes_on(
    file_root: Root, saved: tuple[int, ...], audited: int, pinned: int | None, kept: int | None, clause: str
) -> None:
    """The last save is in flight. The message, the report of the end and the root name the same step."""
    root, scene = with_keep(file_root, 5), Scene()
    reporter = scene.reporter
    callbacks = Callbacks(
        on_commit=lambda save: reporter.event("checkpoint", save.checkpoint, blocked_seconds=None),
        on_newest=reporter.found_checkpoint,
    )
    with open_root(root, callbacks=callbacks) as checkpointer:
        for step in saved:
            checkpointer.save(step, on(mesh(1, 1), numbers(step)), position(step))
        if pinned is not None:
            checkpointer.finish()
            path = next(one.path for one in checkpointer.committed if one.step == pinned)
            edit(Store(root.spec), lambda head: with_pin(head, path))
        with pytest.raises(Corrupted) as raised:
            audits_of(checkpointer, scene, audited)._suspect(20, Finding("state", (1,), certain=True))
    assert str(raised.value).endswith(f"1 device of process 0 has wrong numbers; {clause}")
    reported = reporter.report().checkpoint
    assert (None if reported is None else reported.step) == kept
    with open_root(root) as again:
        restored = again.restore(template(mesh(1, 1)))
    assert (None if restored is None else restored.step) == kept


def test_the_audit_is_compiled_once_for_each_size_of_batch_beside_the_steps() -> None:
    """Before it is due, and without a wait."""
    begun: list[str] = []
    audits: Any = object.__new__(Audits)
    audits._sizes, audits._spec = set(), SimpleNamespace(is_due=lambda step, is_last: False)
    audits._place = SimpleNamespace(spec=SimpleNamespace(trainer=SimpleNamespace(steps=10)))
    audits._program = SimpleNamespace(size_of=lambda batch: batch)
    audits._programs = SimpleNamespace(beside=lambda compile_it: begun.append(compile_it()))
    audits._audit = SimpleNamespace(compiled=lambda rows, length: f"{rows}x{length}")
    for step, batch in ((1, (8, 16)), (2, (8, 16)), (3, (4, 16))):
        audits.stepped(step, None, batch)
    assert begun == ["8x16", "4x16"]


def test_a_compilation_beside_the_steps_that_fails_is_a_warning() -> None:
    programs, kept = object.__new__(Programs), object.__new__(KeptPrograms)
    told, came = list[str](), threading.Event()

    def warning(message: str) -> None:
        told.append(message)
        came.set()

    def fails() -> None:
        raise MemoryError("no memory")

    kept._reporter, programs._kept = SimpleNamespace(warning=warning), kept  # type: ignore[assignment]
    programs.beside(fails)
    assert came.wait(limit(10))
    assert told == ["a program could not be compiled beside the steps, so its first use does it: no memory"]
