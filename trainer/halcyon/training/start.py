"""The start of a training: its checkpoint root is taken, and the state is found with which this process begins."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass

from halcyon.checkpoint import Callbacks, Checkpointer, Restored, SaveReport
from halcyon.context import Context
from halcyon.data.cache.tokenizers import keep_tokenizer
from halcyon.huggingface.beginning import Begun, begin
from halcyon.huggingface.companions import keep_companions
from halcyon.models.adapters import without_adapter
from halcyon.models.trainable import joined
from halcyon.parallel.process_group import ProcessGroup
from halcyon.storage.failures import StoreFailure
from halcyon.storage.retry_budget import RetryBudget
from halcyon.storage.store import Store
from halcyon.telemetry import RunReporter, SaveRequests
from halcyon.tokenizer import TokenizerDefinition
from halcyon.training.program import Program
from halcyon.training.state import TrainState, completed_state, initial_state, with_new_average
from halcyon_api.checkpoint_documents import HEAD_KEY, CommittedStep, Fingerprints
from halcyon_api.spec.checkpoint import CheckpointSpec


def wait_for_root(checkpoint: CheckpointSpec, retry_budget: RetryBudget) -> None:
    """Wait until the checkpoint root accepts the credentials. `Checkpointer` handles other failures, on all processes together."""
    with contextlib.suppress(StoreFailure):
        Store(checkpoint, retry_budget=retry_budget).read(HEAD_KEY)


def open_checkpoints(
    context: Context,
    processes: ProcessGroup,
    prints: Fingerprints,
    vocabulary: int,
    reporter: RunReporter,
    requests: SaveRequests,
    retry_budget: RetryBudget,
) -> Checkpointer:
    """Take the root. A collective; raises as `Checkpointer.open` does."""
    spec = context.run.spec
    return Checkpointer.open(
        spec.checkpoint,
        owner=context.owner,
        epoch=context.epoch,
        fingerprints=prints,
        processes=processes,
        seed=spec.trainer.seed,
        mesh=context.mesh.model_dump(),
        expected_step=context.resume_step,
        vocabulary=vocabulary,
        positions=spec.trainer.longest_sequence,
        retry_budget=retry_budget,
        callbacks=Callbacks(
            on_commit=lambda save: _report_committed(reporter, save),
            on_failure=lambda reason: _report_failed(reporter, requests, reason),
            on_warning=reporter.warning,
            on_read_back=lambda entry, damage: _report_read_back(reporter, entry, damage),
        ),
    )


@dataclass(frozen=True)
class Start:
    """What a process begins with: a checkpoint of the run, what ``spec.from`` names, or random parameters."""

    restored: Restored | None
    """The newest checkpoint of the run that verifies."""
    begun: Begun | None
    """What ``spec.from`` names, for a run without a checkpoint of its own."""
    head_loss: str | None = None
    """Why HEAD was rebuilt from the checkpoints; None if it was not."""

    @property
    def step(self) -> int:
        """Steps done."""
        found = self.restored or self.begun
        return found.step if found else 0

    def state(self, program: Program) -> TrainState:
        """The state after these steps."""
        found = self.restored or self.begun
        state = found.state if found else initial_state(program.build_state, program.template)
        if self.begun is not None and self.begun.state is None:
            model = self.begun.model
            if self.begun.is_part:
                model = joined(model, without_adapter(initial_state(program.build_state, program.template).model))
            state = completed_state(program.complete_state, program.template, model)
        return with_new_average(program.average, program.template, state)

    def report(self, reporter: RunReporter) -> None:
        """Report where the state comes from."""
        restored, begun = self.restored, self.begun
        if restored is None:
            reporter.resumed(begun.step if begun else 0, path=begun.path if begun else None)
            return
        reporter.found_checkpoint(restored.checkpoint)
        reasons = "; ".join(f"step {bad.step}: {bad.reason}" for bad in restored.skipped)
        reporter.resumed(restored.step, path=restored.checkpoint.path, fallback_reason=reasons or None, head_loss=self.head_loss)


def find_start(
    context: Context,
    processes: ProcessGroup,
    program: Program,
    checkpointer: Checkpointer,
    prints: Fingerprints,
    tokenizer: TokenizerDefinition,
    vocabulary: int,
    reporter: RunReporter,
    retry_budget: RetryBudget,
) -> Start:
    """Read the newest checkpoint, or what ``spec.from`` names. A collective; raises as `Checkpointer.restore` and `begin` do."""
    restored = checkpointer.restore(program.template)
    begun = _begin(context, processes, program, prints, vocabulary, retry_budget) if restored is None else None
    if begun is not None and begun.past != checkpointer.skipped:
        checkpointer.inherit(begun.past)
    if restored is None and processes.is_main:
        _keep_files(context.run.spec.checkpoint, tokenizer, begun, reporter, retry_budget)
    return Start(restored, begun, checkpointer.head_loss)


def _begin(
    context: Context, processes: ProcessGroup, program: Program, prints: Fingerprints, tokens: int, retry_budget: RetryBudget
) -> Begun | None:
    """What ``spec.from`` names, for a run that has no checkpoint of its own yet. None: the run has no ``spec.from``."""
    spec = context.run.spec
    if spec.origin is None:
        return None
    return begin(
        spec,
        spec.origin,
        owner=context.owner,
        fingerprints=prints,
        processes=processes,
        template=program.template,
        without_average=dataclasses.replace(program.template, average=None),
        tokens=tokens,
        retry_budget=retry_budget,
    )


def _keep_files(
    checkpoint: CheckpointSpec, tokenizer: TokenizerDefinition, begun: Begun | None, reporter: RunReporter, retry_budget: RetryBudget
) -> None:
    """Write into the root what makes its checkpoints usable without the files that this run reads."""
    store = Store(checkpoint, retry_budget=retry_budget)
    try:
        keep_tokenizer(store, tokenizer)
        keep_companions(store, begun.files if begun is not None else {})
    except StoreFailure as failure:
        reporter.warning(f"the tokenizer could not be copied to the checkpoint root, so an export will lack it: {failure}")


def _report_committed(reporter: RunReporter, save: SaveReport) -> None:
    seconds = save.copy_seconds + save.commit_seconds
    reporter.checkpoint(save.checkpoint, blocked_seconds=save.blocked_seconds, save_seconds=seconds)
    reporter.knows(save_interval_seconds=save.interval_seconds)


def _report_failed(reporter: RunReporter, requests: SaveRequests, reason: str) -> None:
    reporter.checkpoint_failed(reason)
    requests.failed()


def _report_read_back(reporter: RunReporter, entry: CommittedStep, damage: str | None) -> None:
    if damage is None:
        reporter.verified_checkpoint(entry.step)
    else:
        reporter.checkpoint_failed(f"the checkpoint at step {entry.step} was committed and is damaged, so another one is made: {damage}")
