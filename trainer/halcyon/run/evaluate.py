"""The task ``evaluate``: one evaluation of another run's checkpoint, from the tokens to the result. It reads top to
bottom.

It trains nothing and reads only the model of the checkpoint, not the optimizer state. It writes the sums of each source
to the run's root when the source is done. So an eviction or a crash loses at most the source in progress, and the next
process computes the same bits.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.checkpoint.head import HeadKeeper
from halcyon.checkpoint.opening import take_root
from halcyon.checkpoint.processes import decide
from halcyon.checkpoint.results import Restored
from halcyon.data.dataset import ValidationData
from halcyon.data.open import validation_data
from halcyon.data.source_notes import source_notes
from halcyon.evals.benchmarks import Benchmark
from halcyon.host.errors import BadConfiguration, NoValidCheckpoint
from halcyon.run.auto_tuning import without_choice
from halcyon.run.beginning import report_fallback, weights_of_run
from halcyon.run.benchmarks import SharedRunner, asking_of
from halcyon.run.checks import check_sections
from halcyon.run.context import Context, Surroundings
from halcyon.run.data import caches_of, checked, report_sources, report_warnings
from halcyon.run.place import Place, session
from halcyon.step.program import Program, build_program
from halcyon.step.validation import ValidationLoss
from halcyon.telemetry import RunReporter
from halcyon_api.checkpoint_documents import CommittedStep, canonical_json
from halcyon_api.counting import counted
from halcyon_api.result_documents import EVALUATION_KEY, EvaluationDocument, SourceSums, TaskResults
from halcyon_api.spec.origin import OriginSpec
from halcyon_api.status.evaluation import Evaluation, total, with_source
from halcyon_api.status.progress import Evaluated, finite


def evaluate_checkpoint(
    context: Context,
    reporter: RunReporter,
    around: Surroundings,
) -> str:
    """Evaluate the checkpoint that the run names on the held-out part of each source.

    Args:
        context: The run and this process's place in it.
        reporter: Receives the progress.
        around: The program around it.

    Returns:
        One sentence with the result.

    Raises:
        TrainerExit: The checkpoint cannot be evaluated; the class gives the cause and the exit code.
    """
    context = checked(context)
    spec = context.spec
    benchmarks = check_sections(spec)
    caches = caches_of(context, reporter, around)
    with session(context, reporter, around) as joined:
        place, mesh = joined.lay_out()
        spec = without_choice(spec, place.context.mesh)
        if place.processes.is_main:
            report_warnings(reporter, spec, caches[1])
        reporter.stage("restoring")
        validation = validation_data(spec, *caches)
        if place.processes.is_main:
            report_sources(reporter, source_notes(caches[1], validation))
        tokenizer = validation.tokenizer
        program = build_program(spec, tokenizer.vocab_size, mesh, tokenizer=tokenizer)
        return CheckpointEvaluation(place, program, validation, benchmarks).run()


@dataclass
class CheckpointEvaluation:
    """One evaluation, with everything that it needs already open."""

    place: Place
    program: Program
    validation: ValidationData
    benchmarks: Sequence[Benchmark]

    def __post_init__(self) -> None:
        spec, self._reporter, self._store = self.place.spec, self.place.reporter, self.place.root()
        if spec.origin is None:
            raise TypeError("a run of task evaluate needs spec.from, which names the run whose checkpoint it evaluates")
        self._origin = spec.origin
        self._batches, self._batch_size = spec.trainer.evaluation.batches, spec.trainer.batch_size
        self._prints = fingerprints(spec, data=self.validation.description)
        # All that decides the numbers, except the step of the checkpoint if the run names none.
        decides = {"sections": dict(self._prints.sections), "from": self._origin.document(), "batches": self._batches}
        self._wanted = hashlib.sha256(canonical_json(decides)).hexdigest()
        self._keeper: HeadKeeper
        """Of process 0, once it has taken the root."""

    def run(self) -> str:
        """Evaluate, and return one sentence with the result."""
        kept = self._take_root()
        restored, kept = self._restore(kept)
        found = {sums.source: _result_of(sums) for sums in kept.sources} if kept is not None else {}
        checkpoint = restored.checkpoint
        self._reporter.event("restored", checkpoint, seconds=self._reporter.seconds_in_stage())
        report_fallback(self._reporter, restored)
        parts = self.validation.each
        evaluated = Evaluated(run=self._origin.run_name, step=checkpoint.step, path=checkpoint.path)
        for source, evaluation in found.items():
            evaluated = with_source(evaluated, source, evaluation)
        counts = {source: -(-part.validation_sequences // self._batch_size) for source, part in parts.items()}
        if self._batches is not None:
            counts = {source: min(count, self._batches) for source, count in counts.items()}
        tokens = self._batch_size * self.validation.sequence_length
        done = sum(counts[source] for source in found)
        self._reporter.evaluates(
            evaluated, batches=sum(counts.values()), batch_tokens=tokens, done=done, tasks=len(self.benchmarks)
        )

        self._reporter.event("determinism", self.program.determinism_in_effect)
        self._reporter.stage("compiling")
        loss = ValidationLoss(self.program, self.validation.tokenizer)
        model, reference = restored.state["model"], restored.state.get("reference")
        for source, part in parts.items():
            if source not in found:
                found[source] = loss.of(
                    part, model, reference, self._batches, self._batch_size, on_batch=self._reporter.evaluated_batch
                )
                self._reporter.attends(self.program.attention_choices)
                self._report(checkpoint.step, found[source], source)
                self._store_results(found, checkpoint, finished=len(found) == len(parts))
        if not found:  # so that a restart takes the same checkpoint
            self._store_results(found, checkpoint, finished=False)
        results = self._run_tasks(checkpoint, model)
        of = f"the checkpoint of run {self._origin.run} at step {checkpoint.step}"
        numbers = {} if results is None else results.numbers
        of_tasks = ", ".join(f"{name} {value:z.4f}" for name, value in numbers.items())
        if not found:
            self._store_results(found, checkpoint, finished=True)
            return f"{of}: {of_tasks or 'all tasks are done'}"
        whole = total(found.values())
        self._report(checkpoint.step, whole)
        right = f", accuracy {whole.accuracy:z.4f}" if whole.right >= 0 else ""
        bits = "" if whole.bits_per_byte is None else f", {whole.bits_per_byte:z.4f} bits per byte"
        return (
            f"{of} has a loss of {whole.loss:z.4f} nats per token{right}{bits} on "
            f"{counted(whole.sequences, 'sequence')} of {counted(len(found), 'source')}"
            + (f"; {of_tasks}" if of_tasks else "")
        )

    def _run_tasks(self, checkpoint: CommittedStep, model: Any) -> TaskResults | None:
        """Run the benchmarks of the document. None: it has none, or this is not process 0."""
        if not self.benchmarks:
            return None
        asking = asking_of(self.place.other_run(self._origin).store, self.place.processes, entry=checkpoint)
        runner = SharedRunner(
            self.benchmarks,
            self.place.spec,
            self.validation.tokenizer,
            asking,
            self._store,
            self.place.processes,
            self._reporter,
        )
        return runner.of_checkpoint(checkpoint.step, model, checkpoint.manifest_sha256, self._reporter.evaluated_batch)

    def _report(self, step: int, evaluation: Evaluation, source: str | None = None) -> None:
        self._reporter.event("evaluation", (evaluation, None), step=step, source=source, **evaluation.fields)

    def _take_root(self) -> EvaluationDocument | None:
        """Make process 0 the only writer of the run's own root.

        Returns the results of an earlier process, if the root has them.
        """

        def take() -> dict[str, Any]:
            context = self.place.context
            self._keeper, _ = take_root(
                self._store,
                owner=context.owner,
                epoch=context.epoch,
                writer=context.process_name().rpartition("/")[2],
                fingerprints=self._prints,
                expected_step=0,
            )
            kept = EvaluationDocument.parse(self._store.read(EVALUATION_KEY).data)
            if kept is None or not kept.owner.same_run(context.owner) or kept.decides != self._wanted:
                return {}  # the results are computed again
            return kept.document()

        kept = decide(self.place.processes, self._store.root, take)
        return EvaluationDocument.model_validate(kept, by_alias=True, by_name=False, strict=False) if kept else None

    def _restore(self, kept: EvaluationDocument | None) -> tuple[Restored, EvaluationDocument | None]:
        """Restore the model. Returns it with the results in `kept` if they belong to the same checkpoint, else with
        None.

        Where the run names no step, and the checkpoint of `kept` can no longer be restored, the newest one is taken.
        """
        if kept is not None:
            same = self._origin.but(step=kept.checkpoint.step)
            try:
                restored = self._read(same)
            except NoValidCheckpoint:
                if self._origin.step is not None:
                    raise
            else:
                is_same = restored.checkpoint.manifest_sha256 == kept.checkpoint.manifest_sha256
                return restored, kept if is_same else None
        return self._read(self._origin), None

    def _read(self, origin: OriginSpec) -> Restored:
        other, template = self.place.other_run(origin), self.program.template
        entry = other.weights_alone()
        if entry is None:
            part = {"model": template.model} | ({} if template.reference is None else {"reference": template.reference})
            return other.restore(part, self._prints, steps=None, part=True)
        weights = weights_of_run(self.place, other, entry, template.model)
        if template.reference is not None:
            raise BadConfiguration(
                f"spec.objective.preference: the checkpoint of run {origin.run} holds weights alone, and no reference "
                "model to compare with; evaluate a checkpoint of a run with this objective"
            )
        return Restored(entry.step, {"model": weights.model}, entry, ())

    def _store_results(self, found: Mapping[str, Evaluation], checkpoint: CommittedStep, *, finished: bool) -> None:
        """Process 0 writes the results to the root. All processes raise `Fenced` if a newer epoch owns the root.

        Args:
            found: Results of the sources that are done, by name and in their order.
            checkpoint: The checkpoint that is evaluated.
            finished: Whether all sources are done.
        """

        def keep() -> dict[str, Any]:
            self._keeper.refresh()
            whole = total(found.values())
            document = EvaluationDocument(
                owner=self.place.context.owner,
                run=self._origin.run_name,
                root=self._origin.root,
                checkpoint=checkpoint,
                decides=self._wanted,
                sources=tuple(_sums_of(source, result) for source, result in found.items()),
                finished=finished,
                loss=finite(whole.loss),
                bits_per_byte=finite(whole.bits_per_byte),
                time=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            )
            self._store.write(EVALUATION_KEY, document.model_dump_json(by_alias=True, indent=2).encode())
            return {}

        decide(self.place.processes, self._store.root, keep)


def _result_of(sums: SourceSums) -> Evaluation:
    """A result of a document, with the same bits as when it was written."""
    right = float("nan") if sums.right is None else sums.right
    return Evaluation(float(sums.nats), float(sums.weight), sums.size_bytes, sums.sequences, sums.seconds, right=right)


def _sums_of(source: str, result: Evaluation) -> SourceSums:
    return SourceSums(
        source=source,
        nats=repr(result.nats),
        weight=repr(result.weight),
        size_bytes=result.size_bytes,
        sequences=result.sequences,
        seconds=round(result.seconds, 6),
        loss=finite(result.loss),
        bits_per_byte=finite(result.bits_per_byte),
        right=finite(result.right),
    )
