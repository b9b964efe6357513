"""A stage of a chain: one run, with everything that its root has recorded. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from pydantic import ValidationError

from halcyon.telemetry.history.reading import History
from halcyon_api.checkpoint_documents import Manifest
from halcyon_api.result_documents import AnswerSample, EvaluationDocument, TaskNumbers, TaskResults
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
        share: Share of the training sequences at the beginning, between 0 and 1; None: a size that decides it is not
            recorded.
        tokens: Tokens of the source that the stage trained on, by this share; None: not known.
        epochs: How often it read the source; None: not known.
        validation_sequences: Its held-out sequences; None: not recorded.
    """

    name: str
    share: float | None
    tokens: float | None
    epochs: float | None
    validation_sequences: int | None


@dataclass(frozen=True)
class Stage:
    """A stage of a chain.

    Attributes:
        run: Name of the run.
        root: Its root.
        history: Its history; without process groups if the root has none.
        manifest: The metadata of its newest checkpoint; None: the root has none.
        results: Results of tasks on its models, by step; the newest last.
        evaluations: Evaluations of its checkpoints by runs of task ``evaluate``, the newest step last.
        notes: What could not be read, one sentence each.
    """

    run: str
    root: str
    history: History
    manifest: Manifest | None = None
    results: tuple[TaskResults, ...] = ()
    evaluations: tuple[EvaluationDocument, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def documents(self) -> Mapping[str, Any]:
        """The sections of the run's document that its newest checkpoint recorded."""
        return self.manifest.fingerprints.documents if self.manifest else {}

    @property
    def places(self) -> dict[tuple[int, int], Mapping[str, Any]]:
        """The hardware of each process group, by attempt and restart."""
        return {(row["attempt"], row["restart"]): row for row in self.history.events if row["event"] == PLACED}

    @property
    def place(self) -> Mapping[str, Any]:
        """The hardware and lineage of the last process group that recorded them; empty if none did."""
        return next(reversed(self.places.values()), {})

    @property
    def origin(self) -> Origin | None:
        """What the run begins from."""
        run, root = self.place.get("fromRun"), self.place.get("fromRoot")
        return Origin(run, root) if run or root else None

    @property
    def after(self) -> str | None:
        """The run that had to succeed before this one began."""
        return self.place.get("afterRun")

    @property
    def objective(self) -> str | None:
        """What the stage minimized; None if it is not recorded."""
        return _kind(self.documents.get("spec.objective"))

    @property
    def model(self) -> str | None:
        """The model family; None if it is not recorded."""
        return _family(self.documents.get("spec.model"))

    @property
    def parameters(self) -> int | None:
        """Number of parameters, with the padding of the vocabulary; None without a checkpoint."""
        leaves = self.manifest.leaves if self.manifest else ()
        return sum(math.prod(leaf.shape) for leaf in leaves if leaf.path.startswith(_MODEL_PREFIX)) or None

    @property
    def first_step(self) -> int:
        """Steps that were done when the stage began: those of the run that it goes on from."""
        return self.history.groups[0].group.resumed_step if self.history.groups else 0

    @property
    def last_step(self) -> int:
        """Steps done."""
        recorded = self.manifest.step if self.manifest else 0
        return self.history.done_steps if self.history.groups else recorded

    @property
    def tokens(self) -> int | None:
        """Tokens that the stage trained on, repeated steps not counted; None if the sizes of its batches are not
        recorded.
        """
        trainer = self._trainer
        return trainer and _tokens_before(trainer, self.last_step) - _tokens_before(trainer, self.first_step)

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
        weights = {one["name"]: one.get("weight", sizes[one["name"]]) for one in given}
        whole = 0 if None in weights.values() else math.fsum(weights.values())
        all_tokens, trainer = self.tokens, self._trainer
        length = trainer.longest_sequence if trainer else 0
        shares: list[SourceShare] = []
        for name, weight in weights.items():
            share = weight / whole if whole else None
            tokens = None if share is None or all_tokens is None else share * all_tokens
            size = (sizes[name] or 0) * length
            validation = (found.get(name) or {}).get("validationSequences")
            epochs = tokens / size if size and tokens is not None else None
            shares.append(SourceShare(name, share, tokens, epochs, validation))
        return shares

    @property
    def _chips(self) -> list[tuple[float, float | None]]:
        """Chip hours, and the price of one, of each process group that recorded its chips."""
        placed = (
            (group, self.places.get((group.group.attempt, group.group.restart), {})) for group in self.history.groups
        )
        return [
            (group.seconds.total / 3600 * place["chips"], place.get("pricePerChipHour"))
            for group, place in placed
            if "chips" in place
        ]

    @property
    def chip_hours(self) -> float | None:
        """Chips times hours, over all process groups; None if no process group recorded its chips."""
        return _sum(hours for hours, _ in self._chips)

    @property
    def unplaced(self) -> int:
        """Number of process groups that did not record their chips, so that their cost is not known."""
        return len(self.history.groups) - len(self._chips)

    def is_counted(self, price: float | None) -> bool:
        """Whether the chips and the price of each process group are known; `price`: see `cost`."""
        chips = self._chips
        known = price is not None or all(own is not None for _, own in chips)
        return known and bool(chips) and not self.unplaced

    def cost(self, price: float | None) -> float | None:
        """Cost: chips times hours times price; None if chips or price are not known.

        Args:
            price: Price of a chip for an hour. None: the price that the document gave at the time.
        """
        return _sum(
            None if (paid := own if price is None else price) is None else hours * paid for hours, own in self._chips
        )

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
    def averages(self) -> dict[str, dict[str, Any]]:
        """Step and value of the newest CORE and ChatCORE."""
        return {
            name: {"step": one.step, "value": value}
            for one in self.results
            for name, value in (("CORE", one.core), ("ChatCORE", one.chat_core))
            if value is not None
        }

    @property
    def core_tasks(self) -> int:
        """Number of tasks in the newest CORE."""
        found = next((one for one in reversed(self.results) if one.core is not None), None)
        return 0 if found is None else found.core_tasks

    @property
    def validation(self) -> list[dict[str, Any]]:
        """Step, loss and bits per byte of each evaluation on all sources together, in the order of steps."""
        found = self._evaluations("loss", "bitsPerByte")
        found += (
            {"step": one.checkpoint.step, "loss": one.loss, "bitsPerByte": one.bits_per_byte}
            for one in self.evaluations
            if one.loss is not None
        )
        return sorted(found, key=itemgetter("step"))

    @property
    def validation_rewards(self) -> list[dict[str, Any]]:
        """Step and mean reward of each evaluation of reinforcement learning, in the order of steps."""
        return sorted(self._evaluations("reward"), key=itemgetter("step"))

    def _evaluations(self, *names: str) -> list[dict[str, Any]]:
        """These numbers of the evaluations on all sources together that have the first one."""
        return [
            {name: row.get(name) for name in ("step", *names)}
            for row in self.history.evaluations
            if isinstance(row.get(names[0]), (int, float))
            and "source" not in row
            and "tag" not in row
            and ("reward" in names or "reward" not in row)  # the loss of rewards is none of text
        ]


def _tokens_before(trainer: TrainerSpec, step: int) -> int:
    return trainer.but(steps=step).tokens if step > 0 else 0


def _size(description: Any) -> int | None:
    """Training sequences of a source, as a checkpoint describes it."""
    found = (description or {}).get("usedSequences", (description or {}).get("trainSequences"))
    return found if isinstance(found, int) else None


def _family(model: Any) -> str | None:
    return model.get("family") if isinstance(model, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _kind(section: Any) -> str | None:
    """The member of a choice that is set."""
    members = section.items() if isinstance(section, dict) else ()
    return next((name for name, value in members if isinstance(value, dict)), None)


def seconds_of(stages: Sequence[Stage]) -> GoodputSeconds:
    """Seconds of some stages together, by cause."""
    return GoodputSeconds(
        **{cause: math.fsum(getattr(stage.history.seconds, cause) for stage in stages) for cause in CAUSES}
    )


def at_least(whole: bool) -> str:
    """What stands before a sum that lacks parts which are not known."""
    return "" if whole else "at least "


def tokens_of(stages: Sequence[Stage]) -> str:
    """Tokens that some stages trained on, in words; empty: not known."""
    tokens = [stage.tokens for stage in stages]
    known = sum(count for count in tokens if count is not None)
    return f"{at_least(None not in tokens)}{known:,} tokens" if known else ""


def chip_hours_of(stages: Sequence[Stage]) -> float | None:
    """Chip hours of some stages together, as far as they are known; None: none is."""
    return _sum(stage.chip_hours for stage in stages)


def chip_hours_words(stages: Sequence[Stage]) -> str:
    """The same in words."""
    hours = chip_hours_of(stages)
    if hours is None:
        return "chip hours that are not known"
    return f"{at_least(all(stage.is_counted(0.0) for stage in stages))}{hours:,.3f} chip hours"


def cost_of(stages: Sequence[Stage], price: float | None) -> float | None:
    """Cost of some stages together; None: no cost is known.

    `price`, if it is given, replaces the prices of the documents.
    """
    return _sum(stage.cost(price) for stage in stages)


def _sum(parts: Iterable[float | None]) -> float | None:
    """The sum of the parts that are known; None: none is."""
    known = [part for part in parts if part is not None]
    return math.fsum(known) if known else None
