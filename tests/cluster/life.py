"""One run with real trainers that goes through every fault and change. Each stage is recorded once, and many tests
check the records.

The run waits for its tokens, is evicted, loses a process to SIGKILL, loses a pod, is evicted while no operator runs, is
edited and suspended. Its newest checkpoint is damaged. It then trains to its end, is evaluated, cloned, deleted and
created again. The same document runs undisturbed beside it. Each fault is made when a condition holds. The number of
steps is set while the run is suspended, which its learning rate schedule allows, so that the test fits slow and fast
machines.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import yaml

from halcyon_api.checkpoint_documents import HEAD_KEY, Head
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_demo.comparison import Loss, losses
from halcyon_demo.documents import variant
from halcyon_demo.observations import Failed
from halcyon_demo.records import Fault, LogLine, ProcessGroup
from halcyon_demo.training import RESOURCE, Training
from tests.cluster.git import Git
from tests.cluster.life_records import Began, Cloned, Edited, Ended, Evaluated, Finished, Recovered, Stopped, Suspended
from tests.cluster.plugin import Plugin
from tests.cluster.roots import flip_a_bit, head
from tests.cluster.story import Story, stage
from tests.cluster.whole_path import WholePath
from tests.suite.limits import limit

T = TypeVar("T")

NAME, TOKENS, REFERENCE, CLONE, EVALUATION = "life", "tokens", "reference", "cloned", "evaluated"
SAVE_EVERY = 20
UNENDING = {"schedule": {"constant": {}}, "adamw": {}}
"""A learning rate schedule that does not depend on the number of steps, so that this number may be edited."""
WITHOUT_END = 1_000_000
"""More steps than any machine makes before the run gets its final number of steps."""
TRAINER_PORT = 9400


class Life(Story):
    """The stages of the run `life`."""

    def __init__(self, path: WholePath) -> None:
        super().__init__()
        self._path = path
        self._kubectl = path.devcluster.kubectl
        self._where = ("--namespace", path.place.runs)
        self._document = life_document(path)
        self._life = path.training_of(self._document)
        self._halcyon = Plugin(self._kubectl, path.place.runs)
        self._operator = path.operator
        self._pool = ThreadPoolExecutor(4)
        self.namespace = path.place.runs
        self.operator_logs: list[str] = []
        """The logs of the operators so far, each from its start."""

    def close(self) -> None:
        """End the threads and delete all runs."""
        self._pool.shutdown()
        runs = (NAME, TOKENS, REFERENCE, CLONE, EVALUATION)
        self._kubectl("delete", RESOURCE, *runs, *self._where, "--ignore-not-found", "--wait=false")

    @stage
    def began(self) -> Began:
        """One file with three runs is applied: one builds the tokens, `life` trains on them, and one evaluates its last
        checkpoint.
        """
        document = self._variant(name=TOKENS)
        document["spec"]["task"] = "data"
        del document["spec"]["after"]
        self._git([document, self._document, self._evaluation()]).apply()
        built = self._finish(self._path.training_of(document))
        self._life.wait_for_step(1)
        self._settled()

        def has_a_speed() -> bool | None:
            progress = self._status.progress
            return True if progress is not None and progress.tokens_per_second else None

        self._wait(has_a_speed, 120, "the status does not say how fast it trains")
        shown = self._pool.submit(self._halcyon, "status", NAME)
        before = self._life.observations.clock()
        page = self._kubectl.pod_http(self._path.place.runs, self._life.running_pod(0).name, TRAINER_PORT, "/metrics")
        after = self._life.observations.clock()
        saved = self._halcyon("checkpoint", NAME)
        self._life.wait_for_step(int(saved.split()[-1]))
        between = self._step_at(before), self._step_at(after)
        tokenized = (tuple(_tokenized(lines)) for lines in (built.lines, self._life.lines()))
        return Began(built.status, *tokenized, shown.result(), saved, page, between, self._drift())

    @stage
    def evicted(self) -> Recovered:
        """The pod of slice 1 is evicted."""
        return self._recovered(lambda: self._life.evict(1))

    @stage
    def killed(self) -> Recovered:
        """The trainer of process 0 is killed some steps after a checkpoint of the same process group.

        The other processes then end too, and all start again in their pods.
        """
        group = self._settled()

        def some_steps_on() -> bool | None:
            saved = next(
                (
                    line.step
                    for line in reversed(self._life.lines())
                    if (line.event, line.group) == ("checkpoint", group)
                ),
                None,
            )
            return True if saved is not None and saved % SAVE_EVERY == 0 and self._life.step() >= saved + 2 else None

        self._wait(some_steps_on, 300, "no checkpoint was made after the eviction")
        return self._recovered(lambda: self._life.kill(0))

    @stage
    def pod_deleted(self) -> ProcessGroup:
        """A pod is deleted. Returns the process group that trains next."""
        group = self._settled()
        self._kubectl("delete", "pod", self._life.running_pod(1).name, *self._where, "--wait=false")
        self._wait(lambda: self._group() > group or None, 300, "the run has not gone on after the deletion of a pod")
        return self._group()

    @stage
    def unattended(self) -> Recovered:
        """A pod is evicted while no operator runs: its Job makes another one."""
        self._settled()
        self.operator_logs.append(self._operator.log())
        self._operator.scale(0)
        try:
            return self._recovered(lambda: self._life.evict(0))
        finally:
            self._operator.scale(1)

    @stage
    def edited(self) -> Edited:
        """A field whose change needs a new attempt is edited in git."""
        attempt, *_ = self._settled()
        self._document["spec"]["checkpoint"]["keep"] = 4
        output = self._diff(1, self._document)
        self._git([self._document]).apply()
        self._wait(lambda: self._group()[0] > attempt or None, 300, "there is no new attempt after an edit")
        self._settled()
        return Edited(output, self._status)

    @stage
    def suspended(self) -> Suspended:
        """The run is suspended, its newest checkpoint is damaged, and it gets its final number of steps."""
        output = self._halcyon("suspend", NAME, "--wait")
        status = self._life.wait_for_phase("Suspended").status
        document = copy.deepcopy(self._document)
        document["spec"]["suspend"] = True
        same = self._pool.submit(self._diff, 0, document)
        frozen = self._pool.submit(self._diff, 1, _with_trainer(document, seed=7))
        invalid = self._pool.submit(self._diff, 2, _with_trainer(document, steps=0))
        refused = self._pool.submit(self._halcyon, "checkpoint", NAME, code=1)
        drift, page = self._drift(), self._operator.metrics()
        with self._path.root(NAME) as root:
            damaged, older, *_ = head(root).committed
            flip_a_bit(root, damaged)
        # The end is 2.5 save intervals after the last damaged save: the clone needs a checkpoint before the last one.
        steps = damaged.step // SAVE_EVERY * SAVE_EVERY + 2 * SAVE_EVERY + SAVE_EVERY // 2
        self._document["spec"]["trainer"]["steps"] = steps
        ending = self._diff(1, self._document)
        outputs = (one.result() for one in (refused, same, frozen, invalid))
        return Suspended(output, status, page, *outputs, ending, drift, damaged, older, steps)

    @stage
    def ended(self) -> Ended:
        """The run trains to its end. The same document starts undisturbed beside it, and trains for some more steps."""
        self._git([self._document]).apply()
        self._halcyon("resume", NAME)
        self._apply(self._variant(name=REFERENCE, steps=self.more_steps))
        with self._halcyon.begun("logs", NAME, "--follow", "--raw") as following:
            ended = self._finish(self._life)
            followed = following.communicate(timeout=limit(120))[0]
        report = self._pool.submit(self._halcyon, "report", NAME, "--json")
        shown = self._pool.submit(self._halcyon, "report", NAME)
        over = self._pool.submit(self._diff, 1, _with_trainer(self._document, logEverySteps=2))
        profile = "--output=jsonpath={.metadata.labels.pod-security\\.kubernetes\\.io/enforce}"
        restricted = self._kubectl("get", "namespace", self._path.place.runs, profile)
        outputs = followed, json.loads(report.result()), shown.result(), over.result()
        return Ended(ended.status, ended.lines, *outputs, self._drift(), restricted)

    @property
    def steps(self) -> int:
        """Steps of `life` before it is deleted."""
        return self.suspended.steps

    @property
    def more_steps(self) -> int:
        """Steps of `life` after it is created again, and of the undisturbed run."""
        return self.steps + SAVE_EVERY

    @stage
    def reference(self) -> Finished:
        """The undisturbed run."""
        return self._finish(self._training(REFERENCE))

    @property
    def undisturbed(self) -> list[Loss]:
        """The losses of the undisturbed run."""
        return losses(self.reference.lines, REFERENCE)

    @stage
    def cloned(self) -> Cloned:
        """A new run starts from a checkpoint before the last one. Then it no longer needs `life`, which is deleted."""
        earlier = (self.steps - 1) // SAVE_EVERY * SAVE_EVERY
        document = self._variant(name=CLONE)
        document["spec"] |= {"from": {"run": NAME, "step": earlier}}
        clone = self._apply(document)
        self._training(EVALUATION).wait_for_phase("Succeeded")  # it reads a checkpoint of `life`, too
        clone.wait_for_step(earlier + 1)
        self._kubectl(
            "patch", RESOURCE, NAME, *self._where, "--type=merge", '--patch={"spec": {"ttlSecondsAfterFinished": 0}}'
        )
        self._kubectl("wait", "--for=delete", f"{RESOURCE}/{NAME}", *self._where, f"--timeout={limit(60)}s")
        with self._path.root(NAME) as root:
            kept = bytes(root.get(HEAD_KEY).bytes())
        found = self._finish(clone)
        return Cloned(found.status, found.lines, earlier, kept)

    @stage
    def evaluated(self) -> Evaluated:
        """The run that waited until `life` ended, and evaluated its last checkpoint."""
        found = self._finish(self._training(EVALUATION))
        with self._path.root(EVALUATION) as root:
            kept = json.loads(bytes(root.get("evaluation.json").bytes()))
        return Evaluated(found.status, found.lines, kept)

    @stage
    def again(self) -> Finished:
        """`life` is created again, with the same name and root and some more steps."""
        self._document["spec"]["trainer"]["steps"] = self.more_steps
        return self._finish(self._apply(self._document))

    @stage
    def refused(self) -> Stopped:
        """A run has the root of another run."""
        document = self._variant(name="intruder")
        document["spec"]["checkpoint"]["root"] = self._variant(name=REFERENCE)["spec"]["checkpoint"]["root"]
        with self._path.root(REFERENCE) as root:
            before = head(root)
        return self._stopped(self._apply(document), REFERENCE, before, (0, 0, 0))

    @stage
    def ruined(self) -> Stopped:
        """All checkpoints of `life` are damaged, and it gets more steps."""
        with self._path.root(NAME) as root:
            before = head(root)
            for checkpoint in before.committed:
                flip_a_bit(root, checkpoint)
        group = self._group()
        self._git([_with_trainer(self._document, steps=self.more_steps + SAVE_EVERY)]).apply()
        stopped = self._stopped(self._life, NAME, before, group)
        self.operator_logs.append(self._operator.log())
        return stopped

    # Helpers of the stages

    @property
    def _status(self) -> TrainingRunStatus:
        run = self._life.run
        assert run is not None
        return run.status

    def _group(self) -> ProcessGroup:
        """The process group (attempt, restart) that made the newest step."""
        return max((line.group for line in self._life.lines() if line.event == "step"), default=(0, 0, 0))

    def _step_at(self, time: float) -> int:
        """The last step that had ended at a time, by the time in its log line. The line may arrive later."""
        return max(line.step for line in self._life.lines() if line.event == "step" and line.time <= time)

    def _settled(self) -> ProcessGroup:
        """The process group that trains, once the status reports it as Running."""

        def trains() -> ProcessGroup | None:
            group, status = self._group(), self._status
            last = status.history[-1] if status.history else None
            known = last is not None and (last.attempt, last.restart, last.in_place) == group and last.ended_at is None
            return group if known and status.phase == "Running" else None

        return self._wait(trains, 300, "the status does not say that the newest processes train")

    def _wait(self, find: Callable[[], T | None], timeout_seconds: float, complaint: str) -> T:
        """Wait until `find` finds something in the observations. Fails at once if the run stops."""

        def meanwhile() -> None:
            if self._life.run is not None and self._life.run.stop_reason:
                raise Failed(f"{complaint} because the run stopped: {self._life.run.stop_reason}")

        def failure() -> str:
            return (
                f"{complaint}. It is at step {self._life.step()} of {self._group()}, and its status is {self._status}"
            )

        return self._path.watch.observations.wait(
            find, timeout_seconds=timeout_seconds, failure=failure, meanwhile=meanwhile
        )

    def _recovered(self, harm: Callable[[], Fault]) -> Recovered:
        self._settled()
        lines = self._life.lines()
        committed = max((line.step for line in lines if line.event == "checkpoint"), default=0)
        step = self._life.step()
        return Recovered(step, committed, self._life.wait_for_recovery(harm()))

    def _apply(self, document: dict[str, Any]) -> Training:
        training = self._path.training_of(document)
        training.apply()
        return training

    def _training(self, name: str) -> Training:
        return self._path.training_of(self._variant(name=name))

    def _finish(self, training: Training) -> Finished:
        run = training.wait_for_phase("Succeeded")
        self._path.watch.finish_logs(training.name)
        return Finished(run.status, training.lines())

    def _stopped(self, training: Training, root: str, before: Head, group: ProcessGroup) -> Stopped:
        run = training.wait_for_phase("Failed")
        stalled = run.status.condition("Stalled")
        steps = [line for line in training.lines() if line.event == "step" and line.group > group]
        with self._path.root(root) as store:
            after = head(store)
        return Stopped(run.stop_reason, stalled is not None and stalled.status == "True", before, after, len(steps))

    def _variant(self, *, name: str, steps: int | None = None) -> dict[str, Any]:
        """The document of another run. It may use all processors."""
        document = variant(self._document, name=name, steps=steps)
        del document["spec"]["accelerator"]["hostResources"]
        return document

    def _evaluation(self) -> dict[str, Any]:
        document = self._variant(name=EVALUATION)
        document["spec"] |= {"task": "evaluate", "after": {"run": NAME}, "from": {"run": NAME}}
        return document

    def _git(self, documents: list[dict[str, Any]]) -> Git:
        return Git(self._kubectl, self._path.place.runs, documents, "server")

    def _drift(self) -> str:
        return self._git([self._document]).diff()

    def _diff(self, code: int, document: dict[str, Any]) -> str:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(document, file)
            file.flush()
            return self._halcyon("diff", NAME, "--filename", file.name, code=code)


def life_document(path: WholePath) -> dict[str, Any]:
    """The small document with steps of a few dozen milliseconds, and without an end.

    Its pods get half a processor each. They train all the time, and would take all processors from the other pods of
    the cluster; the undisturbed run would then have to repeat more steps.
    """
    document = variant(path.document, name=NAME, steps=WITHOUT_END)
    spec = document["spec"]
    spec["accelerator"]["hostResources"] = {"cpu": "500m"}
    spec["after"] = {"run": TOKENS}
    spec["model"] |= {"hiddenSize": 64, "intermediateSize": 128}
    spec["data"] |= {"cache": {"root": "s3://checkpoints/tokens-of-the-life"}, "validation": {"fraction": 0.001}}
    spec["optimizer"] = UNENDING
    spec["trainer"] |= {"sequenceLength": 128, "evaluation": {"everySteps": 50}}
    spec["checkpoint"]["save"] = {"everySteps": SAVE_EVERY}
    spec["recovery"] = {
        "gracePeriodSeconds": limit(30),
        "stepTimeoutSeconds": limit(60),
    }  # equal to the defaults on the reference machine
    spec["telemetry"] = {"statusIntervalSeconds": 1}
    return document


def _tokenized(lines: Iterable[LogLine]) -> Iterator[LogLine]:
    return (line for line in lines if line.event == "tokenized" and line.fields["finished"])


def _with_trainer(document: dict[str, Any], **trainer: Any) -> dict[str, Any]:
    """The document with other fields of `spec.trainer`."""
    changed = copy.deepcopy(document)
    changed["spec"]["trainer"] |= trainer
    return changed


@pytest.fixture(scope="session")
def life(path: WholePath) -> Iterator[Life]:
    found = Life(path)
    yield found
    found.close()
