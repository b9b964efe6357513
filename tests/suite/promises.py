"""The promises of the README, word for word. The decorator `@promises.NAME` names the promise that a test proves.

The rows of docs/reliability.md are promises too; tests name those by `@rows.NAME` (tests/faults/rows.py).
"""

from __future__ import annotations

import pytest

MARK = "promise"
README = "README.md"


def _promise(words: str, page: str = README) -> pytest.MarkDecorator:
    return pytest.mark.promise(words=words, page=page)


ONE_DOCUMENT = _promise("One `TrainingRun` document says what to train and where")
SAME_LOSSES = _promise(
    "the run goes on from a verified checkpoint with **bitwise the same losses** as an undisturbed run"
)
LAPTOP = _promise("the same document trains on a laptop with `halcyon train run.yaml`")
NOTHING_RUNNING = _promise("leaves nothing running", "CONTRIBUTING.md")
ONE_NAMESPACE = _promise("The operator serves the namespace that it is installed in")
UPGRADES = _promise("upgrades during which all runs train on")
UNINSTALL = _promise("checkpoints; TrainingRuns and their pods, which train on; the resource definitions")
REFUSED_AT_APPLY = _promise("the API server rejects them at apply, with one sentence")
EVERY_FIELD = _promise("`kubectl explain trainingrun.spec --recursive` describes every field")
COLUMNS = _promise("kubectl get trainingruns")
READS_THE_CHECKPOINT = _promise("The operator reads the last committed step before every attempt")
NEVER_FROM_ZERO = _promise("It never starts a run silently from step 0")
CRASH_LOOP = _promise("it stops a crash loop that makes no progress")
PURE_EXAMPLES = _promise("Every example is a pure function of (document, step)")
WEIGHTED_SUMS = _promise("losses are weighted sums divided once")
FENCED = _promise("Fenced writers")
ATOMIC = _promise("atomic commits")
HASHED = _promise("every byte under a hash")
FALLBACK = _promise("fallback to an older step that verifies")
CORRUPTED = _promise("slices can check each other to the last bit while they train")
REPLAYED = _promise("anyone can compute any step again (`halcyon replay`)")
GOODPUT = _promise("Goodput and lost time, by cause, over all attempts: in the status, in Prometheus")
REPORT = _promise("as a picture (`halcyon report`)")
FEWER_SLICES = _promise("A run goes on with fewer slices, grows back at a checkpoint")
BAD_NODES = _promise("avoids nodes that fail")
QUEUE = _promise(
    "In a queue of Kueue it waits for quota, reports the reason, yields to a run of higher priority, and loses no step "
    "by it"
)
DEFAULTS = _promise("The common settings of a team are defaults that never change under a run")
TWO_REPLICAS = _promise("The operator can run as two replicas")


def all_promises() -> dict[str, pytest.Mark]:
    """The marks of this module, by name, in the order of the page."""
    return {name: value.mark for name, value in globals().items() if isinstance(value, pytest.MarkDecorator)}
