"""Replays of steps: the document of a replay of a run (task ``replay``), and the record of what it has found.

The guide is ``docs/guides/proof.md``; `halcyon.run.replay` computes it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, NonNegativeInt

from halcyon_api.base import ApiModel, Timestamp
from halcyon_api.checkpoint_documents import Sha256
from halcyon_api.counting import counted

REPLAY_KEY = "replay.json"
"""The record, in the root of the replay."""
_LEFT_OUT = ("after", "budget", "export", "from", "plan", "suspend", "ttlSecondsAfterFinished")
"""Sections that change no number of a step, and would let a replay do something else too."""
_OF_THE_RUN = ("endpoint", "region", "credentialsSecret", "volumeClaim", "accessRetrySeconds")
"""Fields of the checkpoints that say how the store of the run is reached."""

Steps = NonNegativeInt


class Rounding(ApiModel):
    """Numbers that are not bitwise those of the run, and that rounding explains: on another mesh, on other hardware or
    with other versions.
    """

    largest: float
    """Largest difference of a loss from that of the run."""
    measured: float
    """Largest difference of a loss when the replay computed the steps once more, with parameters that were changed by
    half a unit in the last place of the type of its products."""


class ReplayRecord(ApiModel):
    """What a replay has found."""

    run: str
    """NAMESPACE/NAME of the run."""
    chain: Sha256 | None = None
    """SHA-256 of the newest link of the run's chain when the replay began."""
    identical: bool
    """Whether all that was compared has the same bits."""
    first: Steps = Field(validation_alias="from", serialization_alias="from")
    """Steps done at the checkpoint that it began with."""
    last: Steps = Field(validation_alias="to", serialization_alias="to")
    """The last step."""
    compared_steps: Steps
    """Steps whose loss and gradient norm were compared with the history."""
    first_different_step: Steps | None = None
    """The first step whose numbers differ."""
    rounding: Rounding | None = None
    """If rounding explains all that differs."""
    state_compared: bool
    """Whether the state was compared with the checkpoint of the last step."""
    different_arrays: tuple[str, ...] = ()
    """Paths of the arrays that differ."""
    differences: tuple[str, ...] = ()
    """What differs, in a sentence each."""
    notes: tuple[str, ...] = ()
    """What differed in hardware, mesh and versions."""
    hardware: str
    """Devices that computed it."""
    versions: dict[str, str]
    """Versions of the software that computed it."""
    time: Timestamp
    """When the last step was saved."""

    @property
    def confirms(self) -> bool:
        """Whether the steps of the run are right: all bits that were compared are the same, or rounding explains what
        differs. A replay that compared nothing confirms nothing.
        """
        some = self.compared_steps > 0 or self.state_compared
        return some and (self.identical or self.rounding is not None)

    @property
    def compared(self) -> str:
        """How many of its steps were compared."""
        return f"{self.compared_steps} of {counted(self.last - self.first, 'step')} compared with the history"

    def sentences(self) -> Iterator[str]:
        """The findings for people."""
        steps = f"steps {self.first + 1} to {self.last}"
        if self.rounding is not None:
            yield (
                f"close: the losses of {steps} differ from those of the run by at most {self.rounding.largest:.3g}; "
                f"rounding alone changes them by {self.rounding.measured:.3g}"
            )
            return
        if not self.identical:
            yield f"different: {steps} do not have the bits of the run"
            yield from (f"  {sentence}" for sentence in self.differences)
            return
        if self.state_compared:
            state = f"the state of step {self.last} is that of its checkpoint, every byte of which was read"
            yield f"identical: {steps} have the bits of the run ({self.compared}), and {state}"
            return
        verdict = "identical" if self.compared_steps else "not compared"
        yield f"{verdict}: {self.compared}; the state of step {self.last} has no checkpoint to compare with"


def replay_document(
    document: Mapping[str, Any], first: int, to: int | None, *, name: str, root: str, cache: str | None
) -> dict[str, Any]:
    """The document of a replay of a run. Pure.

    Args:
        document: The document of the run, with its checkpoint root.
        first: Step of the checkpoint to begin with.
        to: The last step. None: that of the next checkpoint.
        name: Name of the replay.
        root: Checkpoint root of the replay.
        cache: Root of the token caches. None: as in the run.
    """
    spec: dict[str, Any] = {name: value for name, value in document["spec"].items() if name not in _LEFT_OUT}
    kept = spec["checkpoint"]
    origin = {"run": document["metadata"]["name"], "step": first, "toStep": to, "root": kept["root"]}
    spec["task"] = "replay"
    spec["from"] = {name: value for name, value in origin.items() if value is not None}
    spec["checkpoint"] = {name: kept[name] for name in _OF_THE_RUN if name in kept} | {"root": root, "keep": 2}
    spec["trainer"] = {name: value for name, value in spec["trainer"].items() if name != "evaluation"}
    left = ("sample", "trackers")  # a watched step is a program of its own
    spec["telemetry"] = {name: value for name, value in spec.get("telemetry", {}).items() if name not in left}
    spec["recovery"] = {name: value for name, value in spec.get("recovery", {}).items() if name != "audit"}
    if cache is not None:
        spec["data"] = {**spec["data"], "cache": {**spec["data"].get("cache", {}), "root": cache}}
    return {
        "apiVersion": document["apiVersion"],
        "kind": document["kind"],
        "metadata": {"name": name, "namespace": document["metadata"].get("namespace", "default")},
        "spec": spec,
    }
