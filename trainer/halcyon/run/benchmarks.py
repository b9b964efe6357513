"""Benchmarks on the model of a run: every N steps and after the last one of a training, and in a run of task
``evaluate``.

All processes take part: each has a copy of the model on its own devices and asks it every n-th example
(`halcyon.run.own_copy` has the reason). Process 0 keeps the results in the root after each benchmark
(`halcyon_api.result_documents`). So a process that resumes at the step runs only those that are missing, and several
process groups together can run benchmarks that take longer than one of them lives. Nothing here has a part in a
training step: the losses are bitwise those of a run without benchmarks.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from halcyon.checkpoint.processes import decide, gather_texts
from halcyon.checkpoint.verify import read_manifest
from halcyon.evals.benchmarks import Benchmark, fingerprint
from halcyon.evals.example import Answer
from halcyon.evals.runner import Runner, Settings
from halcyon.evals.scores import document_of, result_of, samples_of
from halcyon.host.errors import BadConfiguration, TrainerExit
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon.inference.chat import ChatPrompts
from halcyon.models.cache import KeepsCache
from halcyon.parallel.process_group import ProcessGroup
from halcyon.run.own_copy import gathered_bytes, own_copy, own_shapes, tracing_own
from halcyon.telemetry import RunReporter
from halcyon.tokenizer import Tokenizer
from halcyon.weights.chat_template import template_of_run
from halcyon.weights.companions import read_companions
from halcyon_api.checkpoint_documents import HUGGING_FACE_PREFIX, CommittedStep, SkippedBatches, canonical_json
from halcyon_api.result_documents import SAMPLES, AnswerSample, TaskNumbers, TaskResults, results_key
from halcyon_api.training_run import TrainingRunSpec

_PROGRESS_SECONDS = 10.0
"""Shortest time between two reports of progress."""
_TOGETHER = 256
"""Examples whose likelihoods are computed between two reports of progress."""
_HASH_DIGITS = 8
"""Hexadecimal digits of the hash of a benchmark's examples that processes compare."""
End = Literal["done", "stopped", "failed", "refused"]
"""How benchmarks, or the share of a process, ended: all done; a notice came; an error, which was reported; refused.

Refused: the document asks for what this model cannot do, so another attempt ends alike.
"""


class Stopped(Exception):
    """A notice of preemption came while benchmarks were run."""


@dataclass(frozen=True)
class Asking:
    """How a model is asked.

    Attributes:
        in_conversations: Whether it was trained on conversations.
        template: Its chat template. None: Halcyon's own.
    """

    in_conversations: bool
    template: str | None = None


@dataclass(eq=False)
class SharedRunner:
    """Runs the benchmarks of a document on models of its run. Creating it is a collective.

    Args:
        benchmarks: The benchmarks.
        spec: The run's spec.
        tokenizer: The model's tokenizer.
        asking: How the model is asked.
        store: The run's own root.
        processes: The processes.
        reporter: Receives results and progress.
        trains: Whether the run trains: then a benchmark that fails, or results that cannot be kept, are a warning.
        is_stopped: Whether a notice of preemption came to any process.

    Raises:
        BadConfiguration: A benchmark needs a cache, which the model does not keep; or the files of the hosts differ.
    """

    benchmarks: Sequence[Benchmark]
    spec: TrainingRunSpec
    tokenizer: Tokenizer
    asking: Asking
    store: Store
    processes: ProcessGroup
    reporter: RunReporter
    trains: bool = False
    is_stopped: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._shapes = own_shapes(self.spec, self.tokenizer.vocab_size)
        writing = [benchmark.name for benchmark in self.benchmarks if benchmark.grade is not None]
        if writing and not isinstance(self._shapes, KeepsCache):
            raise BadConfiguration(
                f"spec.trainer.evaluation.tasks.files.{writing[0]}: the model keeps no cache, so it cannot write "
                "answers; leave the task out, or give the model a method new_cache"
            )
        # Conversations for a model that was trained on them; plain text for others, and for a model without a template.
        self._chat = (
            ChatPrompts.of(self.tokenizer, self.asking.template, sight=self._shapes.sight)
            if self.asking.in_conversations
            else None
        )
        self._prompt_kind: Literal["plain", "chat"] = "plain" if self._chat is None else "chat"
        self._examples = fingerprint(self.benchmarks)
        _check_same_examples(self.benchmarks, self.processes)
        self._progress_at = 0.0
        self._results = None

    def while_training(self, step: int, model: Any, past: Sequence[SkippedBatches]) -> bool:
        """Run the benchmarks that the root does not have yet. A collective. False: a notice came.

        Args:
            step: Steps done.
            model: The model of the training.
            past: Returns to earlier checkpoints that decide the model of the step.
        """
        return self._run(step, model, {"step": step, "past": [back.document() for back in past]}) != "stopped"

    def of_checkpoint(
        self, step: int, model: Any, manifest_sha256: str, on_done: Callable[[], object]
    ) -> TaskResults | None:
        """Run the benchmarks that the root does not have yet on the model of a checkpoint. A collective.

        Args:
            step: Steps done when the checkpoint was made.
            model: Its model.
            manifest_sha256: Hash of its manifest.
            on_done: Called after each benchmark, also for those that the root has already.

        Returns:
            The results; None on other processes than the first.

        Raises:
            BadConfiguration: A benchmark cannot be run on this model.
            TrainerExit: A benchmark failed, or the results could not be kept; another attempt may succeed.
        """
        self._run(step, model, {"manifest": manifest_sha256}, on_done)
        return self._results

    def _run(
        self,
        step: int,
        model: Any,
        of_model: dict[str, Any],
        on_done: Callable[[], object] = lambda: None,
    ) -> End:
        self.reporter.stage("evaluating")
        decides = hashlib.sha256(
            canonical_json({"model": of_model, "examples": self._examples, "prompts": self._prompt_kind})
        ).hexdigest()
        self._results = None
        done = set(self._kept(step, decides))
        for _ in done:
            on_done()
        runner = None
        tasks = [] if self._results is None else list(self._results.tasks)
        samples = [] if self._results is None else list(self._results.samples)
        for benchmark in self.benchmarks:
            if benchmark.name in done:
                continue
            if runner is None:
                runner = self._runner(model)
            outcome, numbers, mine = self._one(runner, benchmark, step)
            if numbers is None:
                return outcome
            on_done()
            tasks.append(numbers)
            samples += mine
            self._keep(step, decides, tasks, samples)
        if self.processes.is_main and self._results is not None:
            self._report_all(self._results)
        return "done"

    def _report_all(self, results: TaskResults) -> None:
        """Report that all tasks are done; the event of each was written before."""
        self.reporter.knows(tasks=results.numbers)
        for name, (value, tasks) in results.averages.items():
            self.reporter.event("task", step=results.step, task=name, centred=value, tasks=tasks)

    def _runner(self, model: Any) -> Runner | Exception:
        """A runner with a copy of the model, or why there is none, such as too little memory."""
        try:
            copy = own_copy(model, self._shapes)
            settings = Settings(compute_dtype=self.spec.trainer.precision.compute)
            return Runner(copy, self.tokenizer, self._chat, settings, on_progress=self._on_progress)
        except Exception as error:  # reported with the first benchmark, by all processes together
            return error

    def _kept(self, step: int, decides: str) -> list[str]:
        """Names of the benchmarks whose results the root has already; process 0 also takes the results."""

        def work() -> dict[str, Any]:
            try:
                kept = TaskResults.parse(self.store.read(results_key(step)).data)
            except StoreFailure:
                if not self.trains:
                    raise
                kept = None  # a training runs them again rather than end
            if kept is None or kept.decides != decides:
                return {"tasks": []}
            self._results = kept
            return {"tasks": [task.task for task in kept.tasks]}

        return decide(self.processes, self.store.root, work)["tasks"]

    def _keep(self, step: int, decides: str, tasks: list[TaskNumbers], samples: list[AnswerSample]) -> None:
        """Process 0 writes the results. A collective: if they must be kept and cannot, all processes end."""

        def work() -> dict[str, Any]:
            finished = {task.task for task in tasks} >= {benchmark.name for benchmark in self.benchmarks}
            document = document_of(
                step, self._prompt_kind, tasks, samples, decides=decides, finished=finished, now=time.time()
            )
            self._results = document
            try:
                self.store.write(results_key(step), document.model_dump_json(by_alias=True, exclude_none=True).encode())
            except StoreFailure as failure:
                if not self.trains:
                    raise
                self.reporter.warning(f"the results of the tasks of step {step} could not be kept: {failure}")
            return {}

        decide(self.processes, self.store.root, work)

    def _one(
        self, runner: Runner | Exception, benchmark: Benchmark, step: int
    ) -> tuple[End, TaskNumbers | None, list[AnswerSample]]:
        """Run one benchmark on all processes, each with its share of the examples."""
        begin = time.monotonic()
        count, mine = self.processes.process_count, _Share()
        try:
            if isinstance(runner, Exception):
                raise runner
            mine.answers = self._asked(runner, benchmark)
        except Stopped:
            mine.end = "stopped"
        except BadConfiguration as error:  # another attempt has the same end
            mine.end, mine.error = "refused", str(error)
        except Exception as error:  # reported below, by all processes together
            kind = "" if isinstance(error, TrainerExit) else f"{type(error).__name__}: "
            mine.end, mine.error = "failed", f"{kind}{error}"
        shares = [_Share.read(share) for share in gathered_bytes(count, mine.written())]
        ends = {share.end for share in shares}
        if "stopped" in ends:
            return "stopped", None, []
        if ends != {"done"}:
            error = next(share.error for share in shares if share.end != "done")
            sentence = f"task {benchmark.name} on the model of step {step}: {error}"
            if not self.trains:
                raise BadConfiguration(sentence) if "refused" in ends else TrainerExit(sentence)
            self.reporter.warning(f"{sentence}; the run trains on without the tasks of this step")
            return "failed", None, []
        answers = [shares[place % count].answers[place // count] for place in range(len(benchmark.examples))]
        numbers = result_of(benchmark.name, answers, benchmark.baseline, time.monotonic() - begin)
        if self.processes.is_main:
            self.reporter.event("task", numbers, step=step)
        return "done", numbers, samples_of(benchmark, answers)

    def _asked(self, runner: Runner, benchmark: Benchmark) -> list[Answer]:
        """The answers to the examples of this process."""
        examples = benchmark.examples[self.processes.process_index :: self.processes.process_count]
        size = max(1, len(examples)) if benchmark.grade is not None else _TOGETHER  # texts report progress themselves
        answers: list[Answer] = []
        for first in range(0, len(examples), size):
            self._on_progress()
            with tracing_own():
                answers += runner.answers(benchmark, examples[first : first + size])
        return answers

    def _on_progress(self) -> None:
        if self.is_stopped():
            raise Stopped
        now = time.monotonic()
        if now - self._progress_at >= _PROGRESS_SECONDS:
            self._progress_at = now
            self.reporter.stage("evaluating")


def asking_of(
    store: Store, processes: ProcessGroup, *, spec: TrainingRunSpec | None = None, entry: CommittedStep | None = None
) -> Asking:
    """How a model is asked: in conversations, unless its objective was ``nextToken``, with the template that it was
    trained with. A collective.

    Args:
        store: The root that has the model, and perhaps a chat template among the files of Hugging Face. That one is
            taken if the data of the run has no template, or several, or one that does not begin the assistant's turn.
        processes: The processes.
        spec: The spec of the run that trains the model.
        entry: Instead, a checkpoint in the root, whose sections count. Imported weights have none: their template
            decides.
    """

    def work() -> dict[str, Any]:
        if entry is not None:
            sections = read_manifest(store, entry).fingerprints.documents
        else:
            sections = {} if spec is None else {f"spec.{name}": section for name, section in spec.document().items()}
        objective = sections.get("spec.objective")
        template = template_of_run(sections.get("spec.data") or {}, read_companions(store, HUGGING_FACE_PREFIX))
        return {
            "template": template,
            "chat": template is not None if objective is None else "nextToken" not in objective,
        }

    answer = decide(processes, store.root, work)
    return Asking(answer["chat"], answer["template"])


def _check_same_examples(benchmarks: Sequence[Benchmark], processes: ProcessGroup) -> None:
    """Compare the examples of all hosts. A collective: each process asks a share of them, so the files must be the
    same.

    Raises:
        BadConfiguration: They differ.
    """
    hashes = gather_texts(processes, "".join(fingerprint([benchmark])[:_HASH_DIGITS] for benchmark in benchmarks))
    for process, theirs in enumerate(hashes):
        for number, benchmark in enumerate(benchmarks):
            place = slice(number * _HASH_DIGITS, (number + 1) * _HASH_DIGITS)
            if theirs[place] != hashes[0][place]:
                raise BadConfiguration(
                    f"spec.trainer.evaluation.tasks.files: process {process} reads other examples of task "
                    f"{benchmark.name} than process 0; give all hosts the same files"
                )


@dataclass
class _Share:
    """What one process has of a benchmark."""

    answers: list[Answer] = field(default_factory=list[Answer])
    end: End = "done"
    error: str = ""

    def written(self) -> bytes:
        """The share as JSON. Only the first answers keep their texts, for readers."""
        answers: list[Answer] = []
        for place, answer in enumerate(self.answers):
            kept = ("text", "answer") if place < SAMPLES else ()
            facts = {name: answer.facts[name] for name in kept if name in answer.facts}
            answers.append(replace(answer, name="", facts=facts))
        return json.dumps(asdict(_Share(answers, self.end, self.error[:1000]))).encode()

    @staticmethod
    def read(data: bytes) -> _Share:
        """The share in `written`."""
        document = json.loads(data)
        answers = [Answer(**answer | {"rights": tuple(answer["rights"])}) for answer in document["answers"]]
        return _Share(answers, document["end"], document["error"])
