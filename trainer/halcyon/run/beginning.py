"""How a run begins: its checkpoint root is taken, and the state is found from which this process trains.

`kind_of` decides what that is: the newest checkpoint of the run itself; else what ``spec.from`` names, which is the
whole state of another run or weights alone, with a fresh optimizer; else random parameters.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp

from halcyon.checkpoint import Callbacks, Checkpointer, Restored, RunRecord, SaveReport
from halcyon.checkpoint.evidence import StepNumbers
from halcyon.checkpoint.memory.peers import own_address
from halcyon.checkpoint.memory.tier import MemoryTier, Recalled
from halcyon.checkpoint.origin import OtherRun
from halcyon.checkpoint.processes import Processes, decide, gather_texts
from halcyon.checkpoint.verify import Damaged
from halcyon.data.cache.tokenizers import keep_tokenizer
from halcyon.host.errors import BadConfiguration, DataUnreachable, NoValidCheckpoint, RunChanged, TrainerExit
from halcyon.host.storage.failures import StoreFailure, as_exit
from halcyon.host.storage.store import Store
from halcyon.models import CausalLM
from halcyon.models.adapters import without_adapter
from halcyon.models.parameters import joined
from halcyon.parallel.devices import hardware_name
from halcyon.parallel.process_group import split_address
from halcyon.run.place import Place
from halcyon.step.program import Program
from halcyon.step.state import TrainState, completed_state, initial_state, with_new_average
from halcyon.telemetry import RunReporter, SaveRequests
from halcyon.tokenizer import TokenizerDefinition
from halcyon.weights.companions import keep_companions, read_companions
from halcyon.weights.folder import folder_place
from halcyon.weights.further import still_kept
from halcyon.weights.kept import KeptParts, keep_parts, read_kept
from halcyon.weights.peft_files import PeftFolder
from halcyon.weights.reading import FIELDS, Weights, weights_of_checkpoint, weights_of_folder
from halcyon.weights.vectors import check_pooling
from halcyon_api.checkpoint_documents import (
    HEAD_KEY,
    HUGGING_FACE_PREFIX,
    ORIGIN_KEY,
    CommittedStep,
    Epoch,
    EvaluationRecord,
    Fingerprints,
    OriginRecord,
    SkippedBatches,
    canonical_json,
)
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.origin import OriginSpec

Result = TypeVar("Result")
Kind = Literal["memory", "ownCheckpoint", "otherRun", "weights", "random"]


def kind_of(origin: OriginSpec | None, *, has_own: bool, weights_alone: bool = False) -> Kind:
    """What a run begins with. Pure.

    Args:
        origin: ``spec.from``.
        has_own: Whether the run has a checkpoint of its own.
        weights_alone: Whether the checkpoint that `origin` names holds only weights, or is asked only for them.

    Raises:
        BadConfiguration: A field of `origin` is for weights alone, and it names a whole state.
    """
    if has_own:
        return "ownCheckpoint"
    if origin is None:
        return "random"
    if origin.hugging_face is not None or weights_alone:
        return "weights"
    if origin.only is not None or origin.grow_vocabulary:
        name = "only" if origin.only is not None else "growVocabulary"
        raise BadConfiguration(
            f"spec.from.{name}: the checkpoint of run {origin.run} is a whole training, whose optimizer state fits "
            "only to the same parameters; set spec.from.weightsOnly to take only its weights"
        )
    return "otherRun"


@dataclass(frozen=True)
class Beginning:
    """What a process begins with."""

    kind: Kind
    restored: Restored | None = None
    """The state, of the own checkpoint or of that of another run."""
    weights: Weights | None = None
    """The weights alone."""
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """Files of Hugging Face that came with what ``spec.from`` names, by name, for a later export."""
    entry: CommittedStep | None = None
    """The checkpoint of another run."""
    origin: OriginRecord | None = None
    """What the run's root says about that checkpoint."""
    recalled: Recalled | None = None
    """The state, of a snapshot in the memory of the pods."""

    @property
    def step(self) -> int:
        """Steps done."""
        found = self.recalled or self.restored
        return 0 if found is None else found.step

    @property
    def is_new(self) -> bool:
        """Whether the state is of ``spec.from``, so that the root of the run has no checkpoint of it yet."""
        return self.kind in ("otherRun", "weights")

    @property
    def path(self) -> str | None:
        """The place of the checkpoint or of the weights, for the log."""
        if self.recalled is not None:
            return f"memory: {self.recalled.own_files} files of own pods, {self.recalled.peer_files} of others"
        if self.restored is not None:
            return self.restored.checkpoint.path
        return self.weights and self.weights.path

    @property
    def evaluated(self) -> EvaluationRecord | None:
        """The evaluations before the run's own checkpoint or snapshot."""
        if self.recalled is not None:
            return self.recalled.evaluation
        return (
            self.restored.checkpoint.evaluation if self.restored is not None and self.kind == "ownCheckpoint" else None
        )

    @property
    def past(self) -> tuple[SkippedBatches, ...]:
        """See `Restored.past`."""
        return () if self.restored is None else self.restored.past

    def state(self, program: Program) -> TrainState:
        """The state after these steps."""
        if self.recalled is not None:
            state = self.recalled.state
        elif self.restored is not None:
            state = self.restored.state
        elif self.weights is not None:
            model = self.weights.model
            if self.weights.is_part:
                model = joined(model, without_adapter(initial_state(program.build_state, program.template).model))
            state = completed_state(program.complete_state, program.template, model)
        elif program.first_model is not None:
            model = jax.tree.map(jnp.copy, program.first_model)  # the user keeps the given arrays
            state = completed_state(program.complete_state, program.template, model)
        else:
            state = initial_state(program.build_state, program.template)
        return with_new_average(program.average, program.template, state)

    def report(self, reporter: RunReporter, start: Epoch, head_loss: str | None) -> None:
        """Report where the state comes from.

        Args:
            reporter: Receives it.
            start: The start of the run that this is.
            head_loss: Why HEAD of the run's own root was rebuilt; None if it was not.
        """
        origin, recalled = self.origin, self.recalled
        own = None if self.is_new else self.restored
        if self.weights is not None and self.weights.note:
            reporter.warning(self.weights.note)
        if own is not None:
            reporter.found_checkpoint(own.checkpoint)
        files = {} if recalled is None else {"own_files": recalled.own_files, "peer_files": recalled.peer_files}
        reporter.event("restored", self, start=str(start), seconds=reporter.seconds_in_stage(), **files)
        if origin is not None:
            reporter.event("branched", origin, from_run=origin.run, from_root=origin.root)
        if own is not None:
            if head_loss is not None:
                reporter.event("headRebuilt", self, reason=head_loss)
            report_fallback(reporter, own)


def report_fallback(reporter: RunReporter, restored: Restored) -> None:
    """Report why newer checkpoints were not taken, if there are any."""
    if restored.skipped:
        reasons = "; ".join(f"step {bad.step}: {bad.reason}" for bad in restored.skipped)
        reporter.event("fallback", step=restored.step, reason=reasons)


def wait_for_root(place: Place) -> None:
    """Wait until the checkpoint root accepts the credentials.

    `Checkpointer` handles other failures, on all processes together.
    """
    with contextlib.suppress(StoreFailure):
        place.root().read(HEAD_KEY)


def open_memory(place: Place) -> MemoryTier | None:
    """The snapshots in the memory of the pods; None: the run has none, or its processes do not start again in place."""
    spec, context = place.spec.checkpoint.memory, place.context
    link, lineage = context.link, context.lineage
    if spec is None or context.memory is None or link is None or lineage is None:
        return None
    return MemoryTier(
        spec,
        context.memory,
        place.processes,
        (context.topology.slices, context.topology.hosts_per_slice),
        host=own_address(None if context.coordinator is None else split_address(context.coordinator)[0]),
        token=context.save_token,
        writers=lineage.writers,
        on_warning=place.reporter.warning,
        on_kept=link.committed,
    )


def open_checkpoints(
    place: Place, prints: Fingerprints, vocabulary: int, requests: SaveRequests, memory: MemoryTier | None
) -> Checkpointer:
    """Take the root. A collective; raises as `Checkpointer` does."""
    spec, context, reporter = place.spec, place.context, place.reporter

    link, lineage = context.link, context.lineage
    writers = () if lineage is None else lineage.writers
    if lineage is not None and context.epoch is None and not lineage.taken:
        writers = writers[-1:]  # no earlier start has an attempt to go on with

    def tell(step: int) -> None:
        if link is not None:
            link.committed(step if memory is None else max(step, memory.step))

    def on_newest(committed: CommittedStep | None) -> None:
        reporter.found_checkpoint(committed)
        tell(-1 if committed is None else committed.step)

    def on_commit(save: SaveReport) -> None:
        tell(save.checkpoint.step)
        reporter.event("checkpoint", save.checkpoint, blocked_seconds=save.blocked_seconds)
        reporter.adds(checkpoint_save_seconds=save.copy_seconds + save.commit_seconds)
        reporter.knows(save_interval_seconds=save.interval_seconds)

    def on_failure(reason: str) -> None:
        reporter.event("checkpointFailed", reason=reason)
        requests.failed()

    def on_read_back(entry: CommittedStep, damage: str | None) -> None:
        if damage is None:
            reporter.event("checkpointVerified", entry)
        else:
            found = f"the checkpoint at step {entry.step} was committed and is damaged"
            reporter.event("checkpointFailed", reason=f"{found}, so another one is made: {damage}")

    return Checkpointer(
        spec.checkpoint,
        RunRecord(
            prints,
            spec.trainer.seed,
            context.mesh.model_dump(),
            vocabulary,
            spec.trainer.longest_sequence,
            hardware=hardware_name(),
        ),
        owner=context.owner,
        epoch=context.epoch,
        processes=place.processes,
        expected_step=context.resume_step,
        retry_budget=place.retry_budget,
        writers=writers,
        callbacks=Callbacks(
            on_commit=on_commit,
            on_failure=on_failure,
            on_warning=reporter.warning,
            on_read_back=on_read_back,
            on_newest=on_newest,
            on_return=lambda: memory and memory.forget(),
        ),
    )


def recall(
    program: Program, checkpointer: Checkpointer, memory: MemoryTier | None, numbers: StepNumbers
) -> Beginning | None:
    """The newest snapshot in the memory of the pods, if no checkpoint is newer. A collective, for the main thread."""
    if memory is None:
        return None
    newest = checkpointer.newest
    found = memory.recall(
        program.template,
        returns=len(checkpointer.skipped),
        committed=0 if newest is None else newest.step,
        numbers=numbers,
    )
    return found and Beginning("memory", recalled=found)


def begin(
    place: Place, program: Program, checkpointer: Checkpointer, prints: Fingerprints, tokenizer: TokenizerDefinition
) -> Beginning:
    """Read what the run begins with.

    A collective, for the main thread; raises as `Checkpointer.restore` and `from_origin` do.
    """
    restored = checkpointer.restore(program.template)
    if restored is not None:
        return Beginning(kind_of(place.spec.origin, has_own=True), restored)
    beginning = from_origin(place, program, prints)
    if beginning.is_new and beginning.past != checkpointer.skipped:
        checkpointer.inherit(beginning.past)
    if place.processes.is_main:
        _keep_files(place, tokenizer, beginning.files)
    _keep_parts(place, beginning, program)
    if beginning.entry is None:
        return beginning
    return dataclasses.replace(beginning, origin=_keep_origin(place, beginning.entry, prints))


def from_origin(place: Place, program: Program, prints: Fingerprints) -> Beginning:
    """What a run without a checkpoint of its own begins with. A collective, for the main thread.

    Raises:
        BadConfiguration: The weights are of another model, or cannot be read.
        DataUnreachable: The hub does not answer, or denies access.
        TrainerExit: See `OtherRun.restore`.
    """
    origin, template = place.spec.origin, program.template
    other = None if origin is None or origin.hugging_face is not None else place.other_run(origin)
    entry = other and other.weights_alone()
    kind = kind_of(origin, has_own=False, weights_alone=entry is not None)
    if origin is None:
        return Beginning(kind)
    if other is None:
        weights = of_hugging_face(place, origin, place.spec.model, template.model)
    elif entry is not None:
        weights = weights_of_run(place, other, entry, template.model)
    else:
        without_average = dataclasses.replace(template, average=None)
        restored = other.restore(template, prints, steps=place.spec.trainer.steps, without_average=without_average)
        files = together(place.processes, other.store.root, lambda: read_companions(other.store, HUGGING_FACE_PREFIX))
        return Beginning(kind, restored, files=files, entry=restored.checkpoint)
    return Beginning(kind, weights=weights, files=weights.files, entry=entry)


def weights_of_run(place: Place, other: OtherRun, entry: CommittedStep, template: CausalLM) -> Weights:
    """The model of a checkpoint of another run. A collective, for the main thread.

    Args:
        place: The run that begins with it.
        other: The other run.
        entry: Its checkpoint.
        template: Shapes, types and shardings of the run's model.

    Raises:
        BadConfiguration: The weights are of another model, or cannot be read.
        NoValidCheckpoint: The checkpoint is damaged.
    """
    store, origin, model = other.store, other.origin, without_adapter(template)
    return together(
        place.processes, store.root, lambda: weights_of_checkpoint(store, entry, origin, place.spec.model, model)
    )


def of_hugging_face(
    place: Place, origin: OriginSpec, spec: ModelSection, template: CausalLM, fields: tuple[str, str] = FIELDS
) -> Weights:
    """The model of a folder. A collective, for the main thread.

    Args:
        place: The run.
        origin: What names the folder.
        spec: The model that it must be.
        template: Shapes, types and shardings of the model.
        fields: The fields that name the folder and the model.

    Raises:
        BadConfiguration: The weights are of another model, or cannot be read.
        DataUnreachable: The hub does not answer, or denies access.
    """
    assert origin.hugging_face is not None  # noqa: S101 - the caller has checked it
    own, processes = place.spec.checkpoint, place.processes

    def folder(path: str) -> Store:  # downloads a model of the hub
        return Store(folder_place(path, *own.settings_at(path)), retry_budget=place.retry_budget)

    path, beside = origin.hugging_face.path, origin.hugging_face.adapter
    store, model = together(processes, path, lambda: folder(path)), without_adapter(template)
    adapter = None if beside is None else together(processes, beside, lambda: PeftFolder(folder(beside)))
    found = together(processes, store.root, lambda: weights_of_folder(store, origin, spec, model, adapter, fields))
    check_pooling(found.files, place.spec.objective.contrastive, store.root)
    return found


def _keep_origin(place: Place, entry: CommittedStep, prints: Fingerprints) -> OriginRecord:
    """Write into the root which checkpoint of another run the run begins with. A collective."""
    origin, root = place.spec.origin, place.root()
    assert origin is not None  # noqa: S101 - the entry is of the run that it names

    def work() -> dict[str, Any]:
        document = place.other_run(origin).record(entry, prints).document()
        root.write(ORIGIN_KEY, canonical_json(document))
        return document

    return OriginRecord.model_validate_json(canonical_json(decide(place.processes, root.root, work)))


def _keep_files(place: Place, tokenizer: TokenizerDefinition, files: Mapping[str, bytes]) -> None:
    """Write into the root what makes its checkpoints usable without the files that this run reads."""
    store = place.root()
    try:
        keep_tokenizer(store, tokenizer)
        keep_companions(store, files)
    except StoreFailure as failure:
        place.reporter.warning(
            f"the tokenizer could not be copied to the checkpoint root, so an export will lack it: {failure}"
        )


def _keep_parts(place: Place, beginning: Beginning, program: Program) -> None:
    """Write into the root the parts of the model that are not trained. A collective."""
    root, origin = place.root(), place.spec.origin

    def work() -> KeptParts | None:
        kept = beginning.weights and beginning.weights.kept
        if origin is not None and origin.only is None and beginning.entry is not None:
            kept = read_kept(place.other_run(origin).store)
            kept = kept and still_kept(kept, place.spec.model)
        if place.processes.is_main:
            keep_parts(kept, root)
        return kept

    if (kept := together(place.processes, root.root, work)) is not None:
        place.reporter.event("kept", message=kept.described(program.template.model.token_count))


_KINDS = (BadConfiguration, DataUnreachable, NoValidCheckpoint, RunChanged, TrainerExit)


def together(processes: Processes, root: str, work: Callable[[], Result]) -> Result:
    """Run `work` on every process. If it fails on one, every process raises the same error. A collective."""
    result = None
    try:
        result, text = work(), ""
    except Damaged as damage:
        text = f"NoValidCheckpoint {root}: {damage}"
    except StoreFailure as failure:
        text = f"StoreFailure {failure.code} {failure.text}"
    except TrainerExit as error:
        text = f"{next(kind for kind in _KINDS if isinstance(error, kind)).__name__} {error}"
    for found in gather_texts(processes, text):
        kind, _, message = found.partition(" ")
        if kind == "StoreFailure":
            code, _, message = message.partition(" ")
            raise as_exit(StoreFailure(code, message), root, what="the folder", field="spec.from")
        if kind:
            raise next(one for one in _KINDS if one.__name__ == kind)(message)
    return result  # type: ignore[return-value]
