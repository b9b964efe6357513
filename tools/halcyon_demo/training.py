"""One TrainingRun in the cluster: apply it, wait for it, inject faults, delete it.

A wait fails early if the run cannot continue.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from halcyon_api.status.run_status import Phase
from halcyon_api.training_run import GROUP, PLURAL
from halcyon_demo.observations import Failed, Observations, Run
from halcyon_demo.records import Fault, LogLine, Pod
from halcyon_demo.recovery import Recovery, recovery
from halcyon_devcluster import Faults, Kubectl

T = TypeVar("T")

RESOURCE = f"{PLURAL}.{GROUP}"
_FIRST_SIGHT_SECONDS = 60
_TROUBLE = (
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
)


KILL_TRAINER = """
import os, signal, time
processes = [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]
found = [pid for pid in processes if b"halcyon.run." + b"in_pod" in open(f"/proc/{pid}/cmdline", "rb").read()]
print(time.time())
for pid in sorted(found)[:1]:
    os.kill(pid, signal.SIGKILL)
"""
"""Ends the trainer of a pod, below its supervisor, and prints the time. The spare process began later."""


class Training:
    """A run of the observations's namespace.

    Args:
        kubectl: kubectl against the cluster.
        faults: Injects faults into the same cluster.
        observations: Filled by an open `Watch` of the namespace.
        namespace: Namespace of the run.
        document: The run document.
        meanwhile: Called a few times a second while waiting, to draw the live view.
    """

    def __init__(
        self,
        kubectl: Kubectl,
        faults: Faults,
        observations: Observations,
        namespace: str,
        document: dict[str, Any],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self.name: str = document["metadata"]["name"]
        self.steps: int = document["spec"]["trainer"]["steps"]
        self.observations = observations
        self._document = document
        self._kubectl = kubectl
        self._faults = faults
        self._namespace = namespace
        self._meanwhile = meanwhile

    def apply(self) -> None:
        """Create the run and wait until the operator has reconciled it once."""
        old = self.observations.run(self.name)
        self._kubectl.apply([self._document], "--namespace", self._namespace)

        def taken_up() -> Run | None:
            run = self.run
            fresh = run is not None and (old is None or run.uid != old.uid)
            return run if fresh and run is not None and run.status.observed_generation > 0 else None

        self._wait(taken_up, _FIRST_SIGHT_SECONDS, "the operator has not reconciled it", may_stop=True)

    def delete(self) -> None:
        """Delete the run if it exists, and wait until its pods are deleted. Its checkpoints stay."""
        self._kubectl(
            "delete", RESOURCE, self.name, "--namespace", self._namespace, "--ignore-not-found", "--cascade=foreground"
        )

    @property
    def run(self) -> Run | None:
        """The run as it was last observed; None if it was never seen."""
        return self.observations.run(self.name)

    def lines(self) -> tuple[LogLine, ...]:
        """Return the log lines of the run so far."""
        return self.observations.lines(self.name)

    def step(self) -> int:
        """Return the steps done, from the newest log line; after a resume this is the checkpoint's step, plus the steps
        since.
        """
        return next((line.step for line in reversed(self.lines()) if line.event == "step"), 0)

    def wait_for_step(self, step: int, timeout_seconds: float = 900) -> None:
        """Wait until the run has done `step` steps."""
        self._wait(lambda: True if self.step() >= step else None, timeout_seconds, f"it has not reached step {step}")

    def wait_for_phase(self, phase: Phase, timeout_seconds: float = 900) -> Run:
        """Wait until the run's status has this phase, and return the run."""

        def reached() -> Run | None:
            run = self.run
            return run if run is not None and run.status.phase == phase else None

        return self._wait(reached, timeout_seconds, f"its phase is not {phase}", may_stop=phase == "Failed")

    def wait_for_recovery(self, fault: Fault) -> Recovery:
        """Wait until the run has done a step after a fault, and return the recovery."""
        return self._wait(
            lambda: recovery(fault, self.lines(), self.observations.pods(self.name)),
            300,
            f"it did no step after: {fault.title}",
        )

    def running_pod(self, slice_index: int) -> Pod:
        """Wait until the first host of a slice has a running pod, and return the pod."""

        def running() -> Pod | None:
            pods = [pod for pod in self.observations.pods(self.name) if pod.process == (slice_index, 0)]
            newest = max(pods, key=lambda pod: (pod.group, pod.seen_at), default=None)
            return (
                newest if newest is not None and newest.started and not (newest.ended or newest.being_deleted) else None
            )

        return self._wait(running, 120, f"slice {slice_index} has no running pod")

    def flipped(self, step: int) -> Fault:
        """The flip of a bit after a step, which the document has asked for."""
        time = next(line.time for line in self.lines() if line.event == "step" and line.step >= step)
        return Fault("bit flip", time)

    def end(self, cause: str) -> str:
        """What the history says of the process group that ended for a cause."""
        entry = self._wait(
            lambda: next((one for one in self.run.status.history if one.cause == cause), None) if self.run else None,
            60,
            f"its history has no end by {cause}",
        )
        return entry.message or ""

    def evict(self, slice_index: int) -> Fault:
        """Evict the pod of a slice through the Eviction API, like a drain or a reclaimed node."""
        pod = self.running_pod(slice_index)
        fault = Fault("eviction", self.observations.clock())
        self._faults.evict(self._namespace, pod.name)
        return fault

    def kill(self, slice_index: int) -> Fault:
        """SIGKILL the trainer of a slice, like the kernel when memory runs out."""
        pod = self.running_pod(slice_index)
        if self._document["spec"].get("recovery", {}).get("inPlace", True):
            command = ("exec", pod.name, "--namespace", self._namespace, "--", "python3", "-c", KILL_TRAINER)
            return Fault("SIGKILL", float(self._kubectl(*command)))
        fault = Fault("SIGKILL", self.observations.clock())
        self._faults.kill_container(self._namespace, pod.name)
        return fault

    def _wait(
        self, find: Callable[[], T | None], timeout_seconds: float, complaint: str, *, may_stop: bool = False
    ) -> T:
        def meanwhile() -> None:
            self._meanwhile()
            if not may_stop:
                self._check()

        return self.observations.wait(
            find,
            timeout_seconds=timeout_seconds,
            failure=lambda: f"{self.name}: {complaint} within the limit. {self._last_line()}",
            meanwhile=meanwhile,
        )

    def _check(self) -> None:
        run = self.run
        if run is not None and run.stop_reason:
            raise Failed(f"{self.name} stopped: {run.stop_reason} {self._last_line()}")
        for pod in self.observations.pods(self.name):
            if pod.trouble.startswith(_TROUBLE) and not pod.being_deleted:
                raise Failed(f"{self.name}: pod {pod.name} does not start: {pod.trouble}")

    def _last_line(self) -> str:
        errors = [
            line
            for line in self.lines()
            if line.event in ("error", "warning", "fallback", "headRebuilt", "checkpointFailed")
        ]
        words = "; ".join(str(line.fields.get("message") or line.fields.get("reason")) for line in errors[-2:])
        return (
            f"The trainer's last messages: {words}."
            if words
            else "See: kubectl describe trainingrun, kubectl get events, kubectl logs."
        )
