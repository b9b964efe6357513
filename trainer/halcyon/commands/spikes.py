"""``halcyon replay --bisect STEP``: the documents of the batches around a jump of the loss, and steps without some."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from halcyon.host.errors import BadConfiguration
from halcyon_api.printable import harmless
from halcyon_api.replays import replay_document
from halcyon_api.status.progress import finite
from halcyon_api.training_run import TrainingRun

if TYPE_CHECKING:
    from halcyon.run.bisecting import Bisected, DocumentPlace

SHOWN = 10
"""Documents of a step that are shown."""
_CHARACTERS = 60
AFTER = 2
"""Steps after the jump that are computed too."""


def places_of(words: Sequence[str]) -> list[DocumentPlace]:
    """The documents of ``--without``.

    Raises:
        BadConfiguration: One is not of the form STEP:ROW.NUMBER.
    """
    from halcyon.run.bisecting import DocumentPlace

    found: list[DocumentPlace] = []
    for word in words:
        step, _, rest = word.partition(":")
        row, _, number = rest.partition(".")
        if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in (step, row, number)):
            raise BadConfiguration(f"--without {word}: write STEP:ROW.NUMBER, as the table shows it, such as 1005:3.2")
        found.append(DocumentPlace(int(step), int(row), int(number)))
    return found


def bisected(
    run: TrainingRun, step: int, first: int | None, without: Sequence[str], cache: str | None, *, on_cpu: bool, say: Any
) -> Bisected:
    """Compute the steps around a jump of the loss again.

    Args:
        run: The run, with its checkpoint root.
        step: The step of the jump.
        first: Step of the checkpoint to begin with. None: the newest one two steps before.
        without: The documents to leave out, each STEP:ROW.NUMBER.
        cache: Root of the token caches. None: as in the run.
        on_cpu: Compute on the processor instead of the document's accelerator.
        say: Is told what is known before the end, in sentences.

    Raises:
        BadConfiguration: There is no such checkpoint, or no such document.
        TrainerExit: The steps cannot be computed.
    """
    from halcyon.checkpoint.opening import committed_steps
    from halcyon.host.storage.store import Store
    from halcyon.run.bisecting import bisect

    steps, gone = run.spec.trainer.steps, places_of(without)
    if not 2 <= step <= steps:
        raise BadConfiguration(f"--bisect {step}: give a step from 2 to {steps}")
    if first is None:
        store = Store(run.spec.checkpoint)
        before = [entry.step for entry in committed_steps(store) if entry.step <= step - 2]
        if not before:
            raise BadConfiguration(f"--bisect {step}: {store.root} has no checkpoint at least two steps before it")
        first = max(before)
    if first > step - 2:
        raise BadConfiguration(f"--from {first}: the batches of steps {step - 1} and {step} need at most {step - 2}")
    with tempfile.TemporaryDirectory(prefix="halcyon-replay-", ignore_cleanup_errors=True) as folder:
        root = f"file://{folder}/root"
        last = min(step + AFTER, steps)
        document = replay_document(run.document(), first, last, name="replay", root=root, cache=cache)
        return bisect(document, (step - 1, step), gone, on_cpu=on_cpu, say=say)


def shown(text: str) -> str:
    """The beginning of a document in one line, without signs that a terminal obeys. Pure."""
    return harmless(" ".join(text.split())[:_CHARACTERS])


def document_of(found: Bisected, step: int) -> dict[str, Any]:
    """What was found as JSON. Pure."""
    return {
        "step": step,
        "losses": {str(number): finite(loss) for number, loss in sorted(found.losses.items())},
        "documents": [
            {
                "place": str(one.place), "source": one.source, "tokens": one.tokens, "loss": finite(one.loss),
                "raises": finite(one.raises), "text": one.text,
            }
            for one in sorted(found.documents, key=lambda one: (-one.place.step, -one.raises))
        ],
    }  # fmt: skip


def lines_of(found: Bisected, step: int) -> list[str]:
    """The losses around the step, a sentence each. Pure."""
    return [
        f"step {number}: loss {loss:.4f}"
        for number, loss in sorted(found.losses.items())
        if abs(number - step) <= AFTER
    ]
