"""A stage of a chain: one run, with everything that its root has recorded. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from halcyon.telemetry.history.reading import History, ProcessGroupHistory
from halcyon_api.checkpoint_documents import Manifest
from halcyon_api.result_documents import CORE_PREFIX, AnswerSample, EvaluationDocument, TaskNumbers, TaskResults
from halcyon_api.spec.trainer import TrainerSpec
from halcyon_api.status.goodput import CAUSES, GoodputSeconds

PLACED = "placed"
"""The event with the hardware and the lineage of a process group."""
_MODEL_PREFIX = "model."


@dataclass(frozen=True)
class Origin:
    """What a run begins from.

    Attributes:
        run: Name of the other run; None: a model in files.
        root: Its root, or the address of the files; None: it was not recorded.
    """

    run: str | None
    root: str | None


@dataclass(frozen=True)
class SourceShare:
    """A source of a stage.

    Attributes:
        name: Its name.
        share: Share of the training sequences at the beginning, between 0 and 1.
        tokens: Tokens of the source that the stage trained on, by this share.
        epochs: How often it read the source; None: the size of the source is not recorded.
        held_out: Its held-out sequences; None: not recorded.
    """

    name: str
    share: float
    tokens: float
    epochs: float | None
    held_out: int | None


@dataclass(frozen=True)
class Rollout:
    """An answer that a run of reinforcement learning has sampled and kept.

    Attributes:
        step: The step.
        prompt: The prompt.
        answer: The answer.
        reward: Its reward.
    """

    step: int
    prompt: str
    answer: str
    reward: float


@dataclass(frozen=True)
class Stage:
    """A stage of a chain.

    Attributes:
        run: Name of the run.
        root: Its root.
        history: Its history; None: the root has none.
        manifest: The metadata of its newest checkpoint; None: the root has none.
        results: Results of tasks on its models, by step; the newest last.
        evaluations: Evaluations of its checkpoints by runs of task ``evaluate``, the newest step last.
        rollouts: Answers that the stage sampled in its last step, if it is one of reinforcement learning.
        notes: What could not be read, one sentence each.
    """

    run: str
    root: str
    history: History | None = None
    manifest: Manifest | None = None
    results: tuple[TaskResults, ...] = ()
    evaluations: tuple[EvaluationDocument, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def documents(self) -> Mapping[str, Any]:
        """The sections of the run's document that its newest checkpoint recorded."""
        return {} if self.manifest is None else self.manifest.fingerprints.documents

    @property
    def places(self) -> dict[tuple[int, int], Mapping[str, Any]]:
        """The hardware of each process group, by attempt and restart."""
        events = self.history.events if self.history is not None else ()
        return {(row["attempt"], row["restart"]): row for row in events if row["event"] == PLACED}

    @property
    def place(self) -> Mapping[str, Any]:
        """The hardware and lineage of the last process group that recorded them; empty if none did."""
        return next(reversed(self.places.values()), {})

    @property
    def origin(self) -> Origin | None:
        """What the run begins from."""
        place = self.place
        return (
            Origin(place.get("fromRun"), place.get("fromRoot"))
            if place.get("fromRun") or place.get("fromRoot")
            else None
        )

    @property
    def after(self) -> str | None:
        """The run that had to succeed before this one began."""
        return self.place.get("afterRun")

    @property
    def objective(self) -> str:
        """What the stage minimized; empty if it is not recorded."""
        return _kind(self.documents.get("spec.objective"))

    @property
    def model(self) -> str:
        """The model family; empty if it is not recorded."""
        return _kind(self.documents.get("spec.model"))

    @property
    def parameters(self) -> int | None:
        """Number of parameters, with the padding of the vocabulary; None without a checkpoint."""
        leaves = (
            [leaf for leaf in self.manifest.leaves if leaf.path.startswith(_MODEL_PREFIX)]
            if self.manifest is not None
            else []
        )
        return sum(math.prod(leaf.shape) for leaf in leaves) or None

    @property
    def seconds(self) -> GoodputSeconds:
        """Seconds by cause."""
        return self.history.seconds if self.history is not None else GoodputSeconds()

    @property
    def first_step(self) -> int:
        """Steps that were done when the stage began: those of the run that it goes on from."""
        return self.history.groups[0].group.resumed_step if self.history is not None and self.history.groups else 0

    @property
    def last_step(self) -> int:
        """Steps done."""
        if self.history is not None and self.history.groups:
            return self.history.done_steps
        return self.manifest.step if self.manifest is not None else 0

    @property
    def tokens(self) -> int | None:
        """Tokens that the stage trained on, repeated steps not counted; None if the sizes of its batches are not
        recorded.
        """
        trainer = self._trainer
        return (
            None
            if trainer is None
            else _tokens_before(trainer, self.last_step) - _tokens_before(trainer, self.first_step)
        )

    @property
    def _trainer(self) -> TrainerSpec | None:
        try:
            return TrainerSpec.model_validate(self.documents["spec.trainer"], by_alias=True, by_name=False)
        except (KeyError, ValidationError):
            return None

    @property
    def sources(self) -> list[SourceShare]:
        """The sources of the stage, in the order of its document."""
        data: Any = self.documents.get("spec.data") or {}
        found: Any = (self.documents.get("data") or {}).get("sources") or {}
        given: list[Any] = data.get("sources") or []
        sizes = {one["name"]: _size(found.get(one["name"])) for one in given}
        weights = {one["name"]: float(one.get("weight", sizes[one["name"]] or 0)) for one in given}
        whole = sum(weights.values())
        tokens, trainer = self.tokens or 0, self._trainer
        length = trainer.longest_sequence if trainer is not None else 0
        shares: list[SourceShare] = []
        for name, weight in weights.items():
            share = weight / whole if whole else 1 / len(weights)
            size = (sizes[name] or 0) * length
            held_out = (found.get(name) or {}).get("validationSequences")
            shares.append(SourceShare(name, share, share * tokens, share * tokens / size if size else None, held_out))
        return shares

    @property
    def chip_hours(self) -> float | None:
        """Chips times hours, over all process groups; None if no process group recorded its chips."""
        known = [(group, place["chips"]) for group in self._groups if "chips" in (place := self._place_of(group))]
        return math.fsum(group.seconds.total / 3600 * chips for group, chips in known) if known else None

    @property
    def unplaced(self) -> int:
        """Number of process groups that did not record their chips, so that their cost is not known."""
        return sum("chips" not in self._place_of(group) for group in self._groups)

    def cost(self, price: float | None) -> float | None:
        """Cost: chips times hours times price; None if chips or price are not known.

        Args:
            price: Price of a chip for an hour. None: the price that the document gave at the time.
        """
        parts = [
            group.seconds.total / 3600 * place["chips"] * (place["pricePerChipHour"] if price is None else price)
            for group in self._groups
            if "chips" in (place := self._place_of(group)) and (price is not None or "pricePerChipHour" in place)
        ]
        return math.fsum(parts) if parts else None

    @property
    def _groups(self) -> tuple[ProcessGroupHistory, ...]:
        return self.history.groups if self.history is not None else ()

    def _place_of(self, group: ProcessGroupHistory) -> Mapping[str, Any]:
        return self.places.get((group.group.attempt, group.group.restart), {})

    @property
    def last_samples(self) -> dict[str, tuple[int, tuple[AnswerSample, ...]]]:
        """The newest answers to each task, with the step of the model."""
        newest = {one.task: found for found in self.results for one in found.samples}
        return {
            task: (found.step, tuple(one for one in found.samples if one.task == task))
            for task, found in newest.items()
        }

    @property
    def last_results(self) -> dict[str, tuple[int, TaskNumbers]]:
        """The newest result of each task, with its step."""
        return {one.task: (found.step, one) for found in self.results for one in found.tasks}

    @property
    def averages(self) -> dict[str, tuple[int, float]]:
        """The newest CORE and ChatCORE, with their steps."""
        found: dict[str, tuple[int, float]] = {}
        for one in self.results:
            found |= {
                name: (one.step, value)
                for name, value in (("CORE", one.core), ("ChatCORE", one.chat_core))
                if value is not None
            }
        return found

    @property
    def core_tasks(self) -> int:
        """Number of tasks in the newest CORE."""
        found = next((one for one in reversed(self.results) if one.core is not None), None)
        return 0 if found is None else sum(one.task.startswith(CORE_PREFIX) for one in found.tasks)

    @property
    def held_out(self) -> list[tuple[int, float, float | None]]:
        """Step, loss and bits per byte of each evaluation on all sources together, in the order of steps."""
        rows = [row for row in self._evaluations() if "reward" not in row]  # the loss of rewards is none of text
        found = [
            (row["step"], row["loss"], row.get("bitsPerByte"))
            for row in rows
            if isinstance(row.get("loss"), (int, float))
        ]
        found += [
            (one.checkpoint.step, one.loss, one.bits_per_byte) for one in self.evaluations if one.loss is not None
        ]
        return sorted(found, key=lambda one: one[0])

    @property
    def held_out_rewards(self) -> list[tuple[int, float]]:
        """Step and mean reward of each evaluation of reinforcement learning, in the order of steps."""
        return sorted(
            (row["step"], row["reward"]) for row in self._evaluations() if isinstance(row.get("reward"), (int, float))
        )

    def _evaluations(self) -> list[Mapping[str, Any]]:
        """The evaluations on all sources together."""
        rows = self.history.evaluations if self.history is not None else ()
        return [row for row in rows if "source" not in row and "tag" not in row]


def _tokens_before(trainer: TrainerSpec, step: int) -> int:
    return trainer.model_copy(update={"steps": step}).tokens if step > 0 else 0


def _size(description: Any) -> int | None:
    """Training sequences of a source, as a checkpoint describes it."""
    found = (description or {}).get("usedSequences", (description or {}).get("trainSequences"))
    return found if isinstance(found, int) else None


def _kind(section: Any) -> str:
    """The member of a choice that is set."""
    return (
        next((name for name, value in section.items() if isinstance(value, dict)), "")
        if isinstance(section, dict)
        else ""
    )


def seconds_of(stages: Sequence[Stage]) -> GoodputSeconds:
    """Seconds of some stages together, by cause."""
    return GoodputSeconds(**{cause: math.fsum(getattr(stage.seconds, cause) for stage in stages) for cause in CAUSES})


def cost_of(stages: Sequence[Stage], price: float | None) -> float | None:
    """Cost of some stages together; None: no cost is known.

    `price`, if it is given, replaces the prices of the documents.
    """
    known = [cost for stage in stages if (cost := stage.cost(price)) is not None]
    return math.fsum(known) if known else None
