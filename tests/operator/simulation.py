"""A cluster in memory whose every write can fail, for tests that kill the operator at each write.

`FakeApi` replaces the connection to the API server: objects by path, resource versions, preconditions, foreground
deletion. `SimulatedCluster` simulates the rest of the cluster in ticks, as JobSet and the kubelet would: pods for a
JobSet, its restarts, its end, and its deletion after its pods. The operator's own modules above the connection are the
real ones.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from halcyon_api import names
from halcyon_api.post_requests import SaveRequestTaken
from halcyon_operator.kube.client import ApiError, Conflict, NotFound
from halcyon_operator.kube.cluster import Cluster
from halcyon_operator.model.settings import Settings
from halcyon_operator.model.views import HeadAbsent, HeadPending, HeadReading, PodView
from halcyon_operator.observe.jobsets import parse_jobset
from halcyon_operator.observe.memory import PodEndings
from halcyon_operator.observe.node_notices import NodeNotices
from halcyon_operator.observe.observer import Observer
from halcyon_operator.observe.pod_events import PodEvents
from halcyon_operator.observe.reports import ReportReading
from halcyon_operator.run.controller import Controller
from halcyon_operator.run.health import WriteWatch
from halcyon_operator.run.metrics import Metrics
from halcyon_operator.run.work_queue import WorkQueue
from tests.operator.builders import SETTINGS, at, deleted, disrupted, ended, head, pod, report, rfc

KEY = ("default", "demo")
SYSTEM = "halcyon-system"
"""The operator's own namespace."""


MAX_ROUNDS = 100
"""More than any scenario needs."""


class Crash(BaseException):
    """The operator's process is killed."""


@dataclass
class FakeApi:
    """Objects by path. `faults` maps the number of a write to its fault."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    writes: int = 0
    version: int = 1
    events: list[dict[str, Any]] | None = field(default_factory=list)
    """Events about pods; None: the operator may not list events."""
    jobset_controller_away: bool = False
    gone: dict[str, Any] = field(default_factory=dict[str, Any])
    """The run as it was when it was deleted."""
    created: list[tuple[str, str]] = field(default_factory=list)
    synced: list[tuple[str, str]] = field(default_factory=list)
    """Names and uids of the Jobs that the Job controller was made to look at."""
    used: set[tuple[str, str]] = field(default_factory=set)
    """Verbs and resources of all requests, as RBAC names them."""
    recorded_attempt_at_create: list[tuple[str, int]] = field(default_factory=list)

    async def request(
        self, method: str, path: str, resource: str, *, query: Any = None, body: Any = None, **_: Any
    ) -> dict[str, Any]:
        listing = method == "GET" and path.endswith(f"/{resource}")
        verb = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}[method]
        self.used.add(("list" if listing else verb, resource))
        if method == "GET":
            return self._read(path, query or {})
        if resource == "events":
            return {}  # Nothing depends on events.
        self.writes += 1
        fault = self.faults.get(self.writes, "")
        if fault == "crash before":
            raise Crash
        if fault == "refuse":
            raise ApiError(500, "InternalError", "a fault")
        if fault == "conflict":
            raise Conflict(409, "Conflict", "a fault")
        answer = self._write(method, path, body)
        if fault == "crash after":
            raise Crash
        if fault == "lose the answer":
            raise ApiError(0, "Unreachable", "a fault")
        return answer

    def _read(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        if path in self.objects:
            return _copy(self.objects[path])
        if path.rsplit("/", 1)[-1] in ("jobsets", "pods"):
            key, _, value = query.get("labelSelector", "").partition("=")
            found = [thing for place, thing in self.objects.items() if place.rpartition("/")[0] == path]
            return {"items": [_copy(thing) for thing in found if thing["metadata"].get("labels", {}).get(key) == value]}
        if path == EVENTS:
            if self.events is None:
                raise ApiError(403, "Forbidden", "events is forbidden")
            uid = dict(part.split("=") for part in query["fieldSelector"].split(","))["involvedObject.uid"]
            return {"items": [_copy(event) for event in self.events if event["involvedObject"]["uid"] == uid]}
        jobset, _, _ = path.removeprefix(JOBS).rpartition(f"-{names.REPLICATED_JOB}-")
        if path.startswith(JOBS) and f"{JOBSETS}/{jobset}" in self.objects and not self.jobset_controller_away:
            return {"metadata": {"uid": f"job-{path.rpartition('-')[2]}"}}
        raise NotFound(404, "NotFound", path)

    def _write(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        if method == "POST":
            return self._create(path, body)
        if method == "DELETE":
            return self._delete(path, body)
        if path.startswith(JOBS):
            self.synced.append((path.removeprefix(JOBS), body["metadata"]["uid"]))
            return {}
        run = self.objects[path.removesuffix("/status")]
        if body["metadata"]["resourceVersion"] != run["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "the object has been modified")
        run["status"] = _merged(run.get("status", {}), body["status"])
        run["metadata"]["resourceVersion"] = str(self.version)
        return _copy(run)

    def _create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        place = f"{path}/{body['metadata']['name']}"
        if place in self.objects:
            raise Conflict(409, "AlreadyExists", place)
        made = _copy(body)
        made["metadata"] |= {"uid": f"uid-{self.version}", "resourceVersion": str(self.version)}
        self.objects[place] = made
        self.created.append((made["kind"], made["metadata"]["name"]))
        if made["kind"] == "JobSet":
            recorded = self.objects[RUN].get("status", {}).get("attempt", 0)
            self.recorded_attempt_at_create.append((made["metadata"]["name"], recorded))
        return made

    def _delete(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.startswith(JOBS):  # its pods are deleted after it, and the JobSet makes it again
            gone = [place for place, thing in self.objects.items() if body["preconditions"]["uid"] in owners(thing)]
            for place in gone:
                del self.objects[place]
            return {}
        found = self.objects.get(path)
        if found is None:
            raise NotFound(404, "NotFound", path)
        if any(found["metadata"][name] != value for name, value in body["preconditions"].items()):
            raise Conflict(409, "Conflict", "it is another object, or it was changed")
        if found["kind"] in ("JobSet", "Pod"):
            found["metadata"]["deletionTimestamp"] = rfc(0)
        elif found["kind"] == "TrainingRun":
            self.gone = _copy(self.objects[path])
            self.objects.clear()  # the run owns all objects
        else:
            del self.objects[path]
        return {}


RUN = "/apis/halcyon.dev/v1alpha1/namespaces/default/trainingruns/demo"
JOBSETS = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/default/jobsets"
EVENTS = "/api/v1/namespaces/default/events"
PODS = "/api/v1/namespaces/default/pods"
JOBS = "/apis/batch/v1/namespaces/default/jobs/"


def owners(thing: dict[str, Any]) -> list[str]:
    return [owner["uid"] for owner in thing["metadata"].get("ownerReferences", ())]


class SimulatedCluster:
    """The rest of the cluster, and the operator in it."""

    def __init__(
        self,
        document: dict[str, Any],
        faults: dict[int, str] | None = None,
        heads: Any = None,
        settings: Settings = SETTINGS,
    ) -> None:
        self.settings = settings
        self.heads = heads
        """Reads HEADs. None: `head` is read, at once unless `slow_store` is set."""
        self.slow_store = False
        self._seen_state: Any = None
        self.api = FakeApi(faults=faults or {})
        self.api.objects[RUN] = _copy(document)
        self.now = 0.0
        self.head: HeadReading = HeadAbsent()
        self.reports: dict[tuple[int, int], Any] = {}
        self.asked: list[tuple[str, tuple[int, int], int]] = []
        """Requests for a checkpoint that trainers accepted, each once: id, process group, step."""
        self.nodes: list[dict[str, Any]] = []
        self.crashes = 0
        self.killed = False
        self.slices_with_room = [0, 1]
        """The slices whose pods can be made."""
        self.ends: list[dict[str, Any]] = []
        """The ends in place of the present process group."""
        self._start_operator()

    def _start_operator(self) -> None:
        """Start a new operator process, without any memory."""
        metrics, pod_endings = Metrics(), PodEndings()
        self.pod_endings = pod_endings
        cluster = Cluster(self.api)  # type: ignore[arg-type]
        nodes = NodeNotices()
        for node in self.nodes:
            nodes.saw(node)
        observer = Observer(
            cluster,
            self.heads or self,
            self,
            pod_endings,
            self.settings.model_copy(update={"defaults_namespace": SYSTEM}),
            nodes,
            token=lambda: "the-token",
            warnings=PodEvents(cluster, lambda key: self.queue.add(key), self.clock, lambda: self.now),
        )
        self.notices = nodes
        self.observer = observer
        self.queue: WorkQueue[tuple[str, str]] = WorkQueue(lambda: 0.0, group=lambda key: key[0])
        echo = WriteWatch(lambda: self.now)
        self.controller = Controller(
            self.queue, observer, cluster, pod_endings, metrics, echo, "test", self.clock, lambda: self.now, self
        )

    def clock(self) -> datetime:
        return at(self.now)

    async def read(self, _: Any, *rest: Any) -> Any:
        """The HEAD if the observer passes a spec; the report if it passes a run's key and a pod."""
        pod = rest[0]
        if not isinstance(pod, PodView):
            _, seen_state, max_age_seconds = rest
            if self.slow_store and not max_age_seconds and seen_state != self._seen_state:
                self._seen_state = seen_state
                return HeadPending()
            return self.head
        reported = self.reports.get(pod.group)
        return (
            ReportReading(self._with_requests(reported)) if reported is not None else ReportReading(problem="not yet")
        )

    async def send_save_request(self, ask: Any) -> str:
        """Record a request as a trainer would. The process group in the request must be training."""
        group = (ask.request.attempt, ask.request.restart)
        reported = self.reports.get(group)
        assert (ask.token, reported is not None) == ("the-token", True)
        if ask.request.id not in (request for request, where, _ in self.asked if where == group):
            self.asked.append((ask.request.id, group, reported.progress.step))
        return ""

    def _with_requests(self, reported: Any) -> Any:
        group = (reported.attempt, reported.restart)
        taken = [SaveRequestTaken(id=request, step=step) for request, where, step in self.asked if where == group]
        return reported.model_copy(update={"save_requests": taken})

    def annotate(self, value: str, annotation: str = names.ANNOTATION_CHECKPOINT) -> None:
        """The user requests a checkpoint, or sets another annotation."""
        run = self.api.objects[RUN]
        self.api.version += 1
        run["metadata"].setdefault("annotations", {})[annotation] = value
        run["metadata"]["resourceVersion"] = str(self.api.version)

    def notice(self, node: dict[str, Any]) -> None:
        """A node is created or changes."""
        self.nodes = [known for known in self.nodes if known["metadata"]["name"] != node["metadata"]["name"]] + [node]
        self.notices.saw(node)

    @property
    def status(self) -> dict[str, Any]:
        return self.api.objects[RUN].get("status", {})

    @property
    def last_status(self) -> dict[str, Any]:
        """The run's status, or its last status before the deletion."""
        return (self.api.objects.get(RUN) or self.api.gone)["status"]

    @property
    def jobset(self) -> dict[str, Any] | None:
        return next((thing for place, thing in self.api.objects.items() if place.startswith(JOBSETS)), None)

    def edit(self, **spec: Any) -> None:
        """The user edits the spec."""
        run = self.api.objects[RUN]
        run["spec"] |= spec
        self.api.version += 1
        run["metadata"] |= {"generation": run["metadata"]["generation"] + 1, "resourceVersion": str(self.api.version)}

    def suspend(self, saved: int) -> None:
        """The user suspends the run, and it saves before it stops."""
        self.edit(suspend=True)
        self.settle()
        if self.jobset is not None:
            self.head = head(saved, epoch=(self.status["attempt"], self.jobset.get("status", {}).get("restarts", 0)))
            self.settle()

    def train(self, step: int, resumed: int = 0) -> None:
        """The current process group trains."""
        jobset = self.jobset
        assert jobset is not None
        group = int(jobset["metadata"]["labels"][names.LABEL_ATTEMPT]), jobset.get("status", {}).get("restarts", 0)
        ends = [end | {"number": number} for number, end in enumerate(self.ends, 1)] if self.in_place else []
        times = {"inPlace": len(ends), "endsInPlace": ends[-16:]}
        self.reports[group] = report(*group, step=step, resumed=resumed, first=self.now, **times)

    @property
    def in_place(self) -> bool:
        """Whether lost processes start again in their pods."""
        return self.jobset is not None and parse_jobset(self.jobset).in_place

    def end_in_place(self, process: int, **how: Any) -> None:
        """The processes end, and start again in their pods."""
        self.ends.append({"process": process, "at": rfc(self.now), **how})

    def end_jobset(self, outcome: str, reason: str = "", restarts: int = 0) -> None:
        jobset = self.jobset
        assert jobset is not None
        condition = {
            "type": outcome,
            "status": "True",
            "reason": reason,
            "message": "m",
            "lastTransitionTime": rfc(self.now),
        }
        jobset["status"] = {"restarts": restarts, "restartsCountTowardsMax": restarts, "conditions": [condition]}

    def delete_jobset(self) -> None:
        """A user deletes the JobSet."""
        assert self.jobset is not None
        self.jobset["metadata"]["deletionTimestamp"] = rfc(self.now)

    def evict(self) -> None:
        """The pod of slice 1 is evicted. It is gone at the next tick; if processes do not restart in place, with all others,
        whose processes have saved with it.
        """
        (place,) = [place for place in self.api.objects if place.startswith(PODS) and _slice(place) == 1]
        found = self.api.objects[place]
        self.api.objects[place] = deleted(found | {"status": found["status"] | disrupted(self.now)}, self.now)

    def lose_pod(self) -> None:
        """The pod of slice 1 loses its supervisor, and is replaced."""
        (place,) = [place for place in self.api.objects if place.startswith(PODS) and _slice(place) == 1]
        self.api.objects[place]["status"] |= ended(137, self.now)
        self.end_in_place(1, podLost=True)

    def crash(self) -> None:
        """The processes of the current group are killed: in their pods, or with them."""
        if self.in_place:
            self.end_in_place(1, exitCode=137)
            return
        self.killed = True
        for place in [place for place in self.api.objects if place.startswith(PODS)]:
            self.api.objects[place]["status"] |= ended(137, self.now)

    def add_pod(self, made: dict[str, Any]) -> None:
        """Give the JobSet a pod."""
        assert self.jobset is not None
        made["metadata"]["labels"][names.JOBSET_UID_LABEL] = self.jobset["metadata"]["uid"]
        self.api.objects[f"{PODS}/{made['metadata']['name']}"] = made | {"kind": "Pod"}

    def tick(self) -> None:
        """Each controller of the cluster does one thing."""
        self.now += 1
        jobset = self.jobset
        pods = [place for place in self.api.objects if place.startswith(PODS)]
        leaving = [place for place in pods if "deletionTimestamp" in self.api.objects[place]["metadata"]]
        if jobset is None or "deletionTimestamp" in jobset["metadata"]:
            self.ends = []
            for place in pods:
                del self.api.objects[place]
            if jobset is not None and not pods:
                del self.api.objects[f"{JOBSETS}/{jobset['metadata']['name']}"]
        elif self.in_place and leaving and not self.killed:
            for place in leaving:
                del self.api.objects[place]
                self.end_in_place(_slice(place), podLost=True)
        elif pods and (self.killed or leaving):
            self.ends = []
            for place in pods:
                del self.api.objects[place]
            before = jobset.get("status", {})
            counted = before.get("restartsCountTowardsMax", 0) + int(self.killed)
            jobset["status"] = {"restarts": before.get("restarts", 0) + 1, "restartsCountTowardsMax": counted}
            self.killed = False
        elif (
            (self.in_place or not pods)
            and not jobset.get("status", {}).get("conditions")
            and not self.api.jobset_controller_away
        ):
            self._make_pods(jobset, {_slice(place) for place in pods})

    def _make_pods(self, jobset: dict[str, Any], there: set[int]) -> None:
        attempt, restart = (
            int(jobset["metadata"]["labels"][names.LABEL_ATTEMPT]),
            jobset.get("status", {}).get("restarts", 0),
        )
        slices = jobset["spec"]["replicatedJobs"][0]["replicas"]
        for number in [number for number in self.slices_with_room if number not in there and number < slices]:
            made = pod(attempt, restart, number)
            if any(end.get("podLost") and end["process"] == number for end in self.ends):
                made["metadata"] |= {"uid": f"{made['metadata']['uid']}-{self.now}", "creationTimestamp": rfc(self.now)}
            self.add_pod(made)

    async def reconcile_once(self) -> None:
        """The operator reconciles once; if it crashes, a new one starts."""
        try:
            await self.controller.reconcile_run(KEY)
        except Crash:
            self.crashes += 1
            self._start_operator()

    def settle(self) -> None:
        """Reconcile and tick until nothing changes any more."""

        async def run() -> None:
            quiet, rounds = 0, 0
            while quiet < 2:
                rounds += 1
                assert rounds < MAX_ROUNDS, f"it never stops changing: {self.status}"
                before = self.api.writes, sorted(self.api.objects)
                await self.reconcile_once()
                await asyncio.sleep(0)  # reads that run beside the reconciliations
                await asyncio.sleep(0)
                self.tick()
                quiet = quiet + 1 if before == (self.api.writes, sorted(self.api.objects)) else 0

        asyncio.run(run())


def _slice(place: str) -> int:
    return int(place.rsplit("-", 3)[1])


def _copy(thing: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(thing))


def _merged(old: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """JSON merge patch, RFC 7396."""
    result = dict(old)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value)
        else:
            result[key] = value
    return result
