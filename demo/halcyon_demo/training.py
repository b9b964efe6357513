"""One TrainingRun in the cluster: applied, waited for, disturbed, deleted. Waiting ends early when the run cannot go on."""

from collections.abc import Callable
from typing import Any, TypeVar

from halcyon_api.status import Phase
from halcyon_api.training_run import GROUP, PLURAL
from halcyon_demo.journal import Failed, Journal, Run
from halcyon_demo.records import Fault, LogLine, Pod
from halcyon_demo.recovery import Recovery, recovery
from halcyon_devcluster import Faults, Kubectl

T = TypeVar("T")

RESOURCE = f"{PLURAL}.{GROUP}"
_FIRST_SIGHT_SECONDS = 60
_TROUBLE = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")


class Training:
    """A run of the journal's namespace.

    Args:
        kubectl: The cluster.
        faults: The same cluster's faults.
        journal: Filled by an open `Watch` of the namespace.
        namespace: Where the run is.
        document: The run.
        meanwhile: Called a few times a second while waiting; draws the live view.
    """

    def __init__(
        self,
        kubectl: Kubectl,
        faults: Faults,
        journal: Journal,
        namespace: str,
        document: dict[str, Any],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self.name: str = document["metadata"]["name"]
        self.steps: int = document["spec"]["trainer"]["steps"]
        self.journal = journal
        self._document = document
        self._kubectl = kubectl
        self._faults = faults
        self._namespace = namespace
        self._meanwhile = meanwhile

    def apply(self) -> None:
        """Create the run and return when the operator has taken it up."""
        old = self.journal.run(self.name)
        self._kubectl.apply([self._document], "--namespace", self._namespace)

        def taken_up() -> Run | None:
            run = self.run
            fresh = run is not None and (old is None or run.uid != old.uid)
            return run if fresh and run is not None and run.status.observed_generation > 0 else None

        self._wait(taken_up, _FIRST_SIGHT_SECONDS, "the operator has not taken it up", may_stop=True)

    def delete(self) -> None:
        """Delete the run, where there is one, and return when its pods are gone. Its checkpoints stay."""
        self._kubectl("delete", RESOURCE, self.name, "--namespace", self._namespace, "--ignore-not-found", "--cascade=foreground")

    @property
    def run(self) -> Run | None:
        """The run as it was last seen."""
        return self.journal.run(self.name)

    def lines(self) -> tuple[LogLine, ...]:
        """Its log so far."""
        return self.journal.lines(self.name)

    def step(self) -> int:
        """Steps done, by its log: the newest line counts, so a resumed run is back where its checkpoint was."""
        return next((line.step for line in reversed(self.lines()) if line.event == "step"), 0)

    def wait_for_step(self, step: int, timeout_seconds: float = 900) -> None:
        """Return when the run has done so many steps."""
        self._wait(lambda: True if self.step() >= step else None, timeout_seconds, f"it has not reached step {step}")

    def wait_for_phase(self, phase: Phase, timeout_seconds: float = 900) -> Run:
        """Return the run when its status shows a phase."""

        def reached() -> Run | None:
            run = self.run
            return run if run is not None and run.status.phase == phase else None

        return self._wait(reached, timeout_seconds, f"its phase is not {phase}", may_stop=phase == "Failed")

    def wait_for_recovery(self, fault: Fault, timeout_seconds: float = 300) -> Recovery:
        """Return what followed on a fault when the run has stepped again."""
        return self._wait(
            lambda: recovery(fault, self.lines(), self.journal.pods(self.name)), timeout_seconds, f"it has not gone on after: {fault.title}"
        )

    def running_pod(self, slice_index: int) -> Pod:
        """Return the pod that runs the first host of a slice now."""

        def running() -> Pod | None:
            pods = [pod for pod in self.journal.pods(self.name) if pod.process == (slice_index, 0)]
            newest = max(pods, key=lambda pod: pod.world, default=None)
            return newest if newest is not None and newest.started and not (newest.ended or newest.leaving) else None

        return self._wait(running, 120, f"slice {slice_index} has no running pod")

    def evict(self, slice_index: int) -> Fault:
        """Evict the pod of a slice through the Eviction API, as a drain or a reclaimed node does."""
        pod = self.running_pod(slice_index)
        fault = Fault("eviction", self.journal.clock())
        self._faults.evict(self._namespace, pod.name)
        return fault

    def kill(self, slice_index: int) -> Fault:
        """SIGKILL the trainer of a slice, as the kernel does when memory runs out."""
        pod = self.running_pod(slice_index)
        fault = Fault("SIGKILL", self.journal.clock())
        self._faults.kill_container(self._namespace, pod.name)
        return fault

    def _wait(self, find: Callable[[], T | None], timeout_seconds: float, complaint: str, *, may_stop: bool = False) -> T:
        def meanwhile() -> None:
            self._meanwhile()
            if not may_stop:
                self._check()

        return self.journal.wait(
            find,
            timeout_seconds=timeout_seconds,
            failure=lambda: f"{self.name}: {complaint} within the limit. {self._last_words()}",
            meanwhile=meanwhile,
        )

    def _check(self) -> None:
        run = self.run
        if run is not None and run.complaint:
            raise Failed(f"{self.name} stopped: {run.complaint} {self._last_words()}")
        for pod in self.journal.pods(self.name):
            if pod.trouble.startswith(_TROUBLE) and not pod.leaving:
                raise Failed(f"{self.name}: pod {pod.name} does not start: {pod.trouble}")

    def _last_words(self) -> str:
        errors = [line for line in self.lines() if line.event in ("error", "warning", "fallback", "checkpointFailed")]
        words = "; ".join(str(line.fields.get("message") or line.fields.get("reason")) for line in errors[-2:])
        return (
            f"The trainer's last words: {words}." if words else "Look with: kubectl describe trainingrun, kubectl get events, kubectl logs."
        )
