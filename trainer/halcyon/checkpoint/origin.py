"""Begins a run from a checkpoint of another run (``spec.from``). The other run's root is only read; that run may write
to it meanwhile.

The model and the tokenizer must be the same, because they give the arrays their meaning. From that step on the new run
uses its own data and their order, seed, batch, learning rates and number of steps. The step number continues, so if
nothing differs, the new run computes bitwise what the other run would have computed.
"""

from dataclasses import dataclass
from typing import Any

from halcyon.checkpoint.arrays import MODEL_PREFIX
from halcyon.checkpoint.fingerprints import ADAPTER, differences, fingerprints_of
from halcyon.checkpoint.head import bad_step
from halcyon.checkpoint.opening import load_head
from halcyon.checkpoint.processes import Agreement, Processes, decide
from halcyon.checkpoint.reader import AVERAGE_PREFIX, holds_average, read_state
from halcyon.checkpoint.results import USUAL_LIMITS, Restored
from halcyon.checkpoint.rollback import until
from halcyon.checkpoint.verify import Damaged, readable
from halcyon.host.errors import BadConfiguration, NoValidCheckpoint, RootTaken, RunChanged
from halcyon.host.storage.retry_budget import RetryBudget
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import (
    MAX_CHANGES,
    BadStep,
    CommittedStep,
    Fingerprints,
    Head,
    OriginRecord,
    Owner,
    SkippedBatches,
)
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.origin import OriginSpec

_KEPT_SECTIONS = ("spec.model", "spec.tokenizer", ADAPTER)
_FIX = (
    "; a run that begins from another one keeps its model, adapter, tokenizer and kind of optimizer, so set them back, "
    "or take only the weights (spec.from.weightsOnly; halcyon train run.yaml --branch NAME --weights-only), or begin "
    "at step 0 in a root of its own (--checkpoint-root)"
)


def origin_store(origin: OriginSpec, own: CheckpointSpec, retry_budget: RetryBudget | None = None) -> Store:
    """The other run's root.

    Raises:
        BadConfiguration: ``spec.from.root`` is not set.
    """
    return Store(origin_place(origin, own), timeout_seconds=USUAL_LIMITS.request_seconds, retry_budget=retry_budget)


def origin_place(origin: OriginSpec, own: CheckpointSpec) -> CheckpointSpec:
    """Address of the other run's root; an S3 root has the endpoint and region of the run's own root.

    Raises:
        BadConfiguration: ``spec.from.root`` is not set.
    """
    if origin.root is None:
        raise BadConfiguration(
            f"spec.from.root: only the operator can look up where the checkpoints of run {origin.run} are; outside of "
            "a cluster give its checkpoint.root here"
        )
    endpoint, region = own.settings_at(origin.root)
    return CheckpointSpec(root=origin.root, endpoint=endpoint, region=region)


def tokenizer_fingerprint(store: Store) -> str | None:
    """Fingerprint of the trained tokenizer of the other run's checkpoints; None if no checkpoint records it, or it was
    not trained.

    Raises:
        NoValidCheckpoint: HEAD is damaged and cannot be rebuilt.
        StoreFailure: The store did not answer.
    """
    head, _ = load_head(store)
    for _, manifest in readable(store, head.committed if head is not None else ()):
        documents = manifest.fingerprints.documents
        data, tokenizer = documents.get("data"), documents.get("spec.tokenizer")
        if isinstance(tokenizer, dict) and "bpe" not in tokenizer:
            return None
        sha256 = data.get("tokenizerSha256") if isinstance(data, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        return sha256 if isinstance(sha256, str) else None
    return None


@dataclass(frozen=True)
class OtherRun:
    """The run of ``spec.from.run``, from whose checkpoints another run begins."""

    origin: OriginSpec
    """``spec.from`` of the new run."""
    store: Store
    """The root of the other run."""
    owner: Owner
    """The new run. The other run is in the same namespace."""
    processes: Processes

    def weights_alone(self) -> CommittedStep | None:
        """The checkpoint to begin from, if it holds only weights, as an import or an average makes it, or if only these
        are wanted. None: the run begins from a whole state. A collective, for the main thread.

        Raises:
            RootTaken: The root belongs to another run than ``spec.from.run``.
            NoValidCheckpoint: The root has no checkpoint, or none of that step.
        """

        def work() -> dict[str, Any]:
            for entry, manifest in readable(self.store, self._candidates(self._head())):
                only_weights = self.origin.takes_weights or all(
                    leaf.path.startswith(MODEL_PREFIX) for leaf in manifest.leaves
                )
                return {"entry": entry.document() if only_weights else None}
            return {"entry": None}

        entry = decide(self.processes, self.store.root, work)["entry"]
        return None if entry is None else CommittedStep.model_validate(entry)

    def restore(
        self,
        template: Any,
        fingerprints: Fingerprints,
        *,
        steps: int | None,
        without_average: Any = None,
        part: bool = False,
    ) -> Restored:
        """Read the state from which a run begins. A collective, for the main thread.

        Args:
            template: The arrays to read and their shardings; see `Checkpointer.restore`. Arrays of another
                floating-point type are rounded.
            fingerprints: Fingerprints of the new run.
            steps: ``spec.trainer.steps`` of the new run; None for a task without steps.
            without_average: The template without its average of the parameters, which is read if the other run has no
                such average.
            part: The template may be a part of the state, such as the model alone.

        Raises:
            RootTaken: The root belongs to another run than ``spec.from.run``.
            NoValidCheckpoint: The root has no checkpoint of that step, or none that verifies.
            RunChanged: The model or the tokenizer differs, or the checkpoint's step is not below `steps`.
        """

        def work() -> dict[str, Any]:
            head = self._head()
            candidates = self._candidates(head)
            self._compare(candidates, fingerprints, steps)
            average = next(
                (holds_average(manifest, template) for _, manifest in readable(self.store, candidates)), True
            )
            past = [entry.document() for entry in head.skipped] if head is not None else []
            return {"entries": [entry.document() for entry in candidates], "average": average, "skipped": past}

        decided = decide(self.processes, self.store.root, work)
        if without_average is not None and not decided["average"]:
            template = without_average
        skipped: list[BadStep] = []
        for entry in [CommittedStep.model_validate(entry) for entry in decided["entries"]]:
            agree = Agreement(self.processes, self.store.root, entry.step, fix=_FIX)
            try:
                state = read_state(
                    self.store,
                    entry,
                    template,
                    agree,
                    cast=True,
                    part=part,
                    spare=AVERAGE_PREFIX,
                    share_from_bytes=USUAL_LIMITS.shared_read_bytes,
                )
            except Damaged as damage:
                skipped.append(bad_step(entry, str(damage)))
                continue
            # A position in the data that the document gives counts the batches that the other run left out.
            given = self.origin.data_position is not None
            past = () if given else until(map(SkippedBatches.model_validate, decided["skipped"]), entry.step)
            return Restored(entry.step, state, entry, tuple(skipped), past)
        reasons = "; ".join(f"step {bad.step}: {bad.reason[:200]}" for bad in skipped)
        raise NoValidCheckpoint(
            f"spec.from: no checkpoint of run {self.origin.run} in {self.store.root} verifies ({reasons}); name "
            "another spec.from.step"
        )

    def record(self, entry: CommittedStep, fingerprints: Fingerprints) -> OriginRecord:
        """What the new run began from, and what differs in its document. For process 0.

        Args:
            entry: The checkpoint that was read.
            fingerprints: Fingerprints of the new run.

        Raises:
            StoreFailure: The store did not answer.
        """
        clauses: tuple[str, ...] = ("it is not known what differs: the manifest of the checkpoint cannot be read",)
        for _, manifest in readable(self.store, [entry]):
            clauses = differences(_of_document(fingerprints), _of_document(manifest.fingerprints))
        return OriginRecord(
            run=self.origin.run_name,
            root=self.store.root,
            step=entry.step,
            weights_only=self.origin.weights_only is True,
            data_position=self.origin.data_position,
            changes=clauses[:MAX_CHANGES],
        )

    def _head(self) -> Head | None:
        return load_head(self.store)[0]

    def _candidates(self, head: Head | None) -> tuple[CommittedStep, ...]:
        """The checkpoints to begin from, in the order in which they are tried."""
        origin, root = self.origin, self.store.root
        wanted = Owner(namespace=self.owner.namespace, name=origin.run_name)
        if head is not None and not head.owner.same_run(wanted):
            raise RootTaken(
                f"spec.from: the checkpoint root {root} is of run {head.owner.namespace}/{head.owner.name}, not of "
                f"{wanted.namespace}/{wanted.name}; correct spec.from"
            )
        if head is None or not head.committed:
            raise NoValidCheckpoint(
                f"spec.from: run {origin.run} has no checkpoint in {root} yet; wait for its first, or correct spec.from"
            )
        if origin.step is None:
            return head.committed[: USUAL_LIMITS.damaged_checkpoints + 1]
        named = tuple(entry for entry in head.committed if entry.step == origin.step)
        if not named:
            steps = ", ".join(str(entry.step) for entry in head.committed[:10])
            raise NoValidCheckpoint(
                f"spec.from.step: run {origin.run} has no checkpoint of step {origin.step} in {root} (any more); its "
                f"steps are {steps}; pin a checkpoint to keep it (halcyon checkpoints pin)"
            )
        return named

    def _compare(self, candidates: tuple[CommittedStep, ...], fingerprints: Fingerprints, steps: int | None) -> None:
        """Reject a run with another model or tokenizer than the first checkpoint whose manifest can be read."""
        run = self.origin.run
        for entry, manifest in readable(self.store, candidates):
            if steps is not None and entry.step >= steps:
                raise RunChanged(
                    f"spec.trainer.steps: {steps} must be more than the {entry.step} steps that run {run} had done at "
                    "its checkpoint; give more, or name an earlier spec.from.step (--from-step with --branch)"
                )
            then = manifest.fingerprints
            if "spec.tokenizer" not in then.documents:  # imported weights
                fingerprints, then = (
                    fingerprints_of({name: each.documents[name] for name in ("spec.model",)})
                    for each in (fingerprints, then)
                )
            clauses = differences(_kept(fingerprints), _kept(then))
            if clauses:
                raise RunChanged(f"run {run} was made with another configuration: {'; '.join(clauses)}{_FIX}")
            return


def _of_document(fingerprints: Fingerprints) -> Fingerprints:
    """The sections of the document, without the description of the data's contents and the beginning."""
    documents = fingerprints.documents
    return fingerprints_of({name: documents[name] for name in documents if name not in ("data", "spec.from")})


def _kept(fingerprints: Fingerprints) -> Fingerprints:
    """The sections that must be the same, and the tokenizer's hash, because a tokenizer may be trained on the run's own
    text.
    """
    documents = {name: fingerprints.documents[name] for name in _KEPT_SECTIONS if name in fingerprints.documents}
    data = fingerprints.documents.get("data")
    if isinstance(data, dict) and "tokenizerSha256" in data:
        documents["tokenizer"] = {"sha256": str(data["tokenizerSha256"])}  # pyright: ignore[reportUnknownArgumentType]
    return fingerprints_of(documents)
