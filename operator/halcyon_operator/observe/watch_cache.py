"""The last state that the watches have shown: every run with its JobSets and pods, parsed once and kept as plain
values.

With it, the reconcile of an unchanged run needs no request. The cache is only used to find out that nothing has
changed. Every write is decided from present answers of the API server, because the watches of several kinds lag by
different times and do not repeat events that they missed. The cache keeps values instead of documents: the document of
a pod needs fifty times the memory."""

from collections.abc import Iterable

from halcyon_api import names
from halcyon_api.status.plan import parse_plan
from halcyon_api.status.run_status import AT_REST
from halcyon_operator.model.untrusted import integer, text, value_at
from halcyon_operator.model.views import ObjectKey, RunKey, RunView, WatchedKind
from halcyon_operator.objects.jobset import role_of
from halcyon_operator.observe.jobsets import MAX_LABEL, parse_jobset
from halcyon_operator.observe.pods import parse_pod, termination_message
from halcyon_operator.observe.runs import parse_run_view


class SeenJobSet:
    """A JobSet, what it is for, and the hash of what it plans."""

    __slots__ = ("plan_hash", "role", "view")

    def __init__(self, document: object) -> None:
        self.view, self.role = parse_jobset(document), role_of(document)
        self.plan_hash = text(value_at(document, "metadata", "labels", names.LABEL_PLAN), MAX_LABEL)


class SeenPod:
    """A pod, its run, its key and version, what it is for, and the plan that it reports."""

    __slots__ = ("key", "plan", "role", "run_uid", "version", "view")

    def __init__(self, document: object) -> None:
        self.view, self.role = parse_pod(document), role_of(document)
        self.plan = parse_plan(termination_message(document)) if self.role == "plan" else None
        self.run_uid = text(value_at(document, "metadata", "labels", names.LABEL_RUN_UID))
        self.key, self.version = _object_key("pods", document), _version(document)


_Table = dict[RunKey, dict[str, SeenJobSet]] | dict[RunKey, dict[str, SeenPod]]
"""JobSets or pods by run and name."""


class WatchCache:
    """The last state of all watched objects. All calls come from one event loop."""

    def __init__(self) -> None:
        self._versions: dict[ObjectKey, int] = {}
        self._runs: dict[RunKey, RunView] = {}
        self._under_way: set[RunKey] = set()
        self._after: dict[RunKey, set[RunKey]] = {}
        """Runs that have not begun, by the run of their `spec.after`."""
        self._jobsets: dict[RunKey, dict[str, SeenJobSet]] = {}
        self._pods: dict[RunKey, dict[str, SeenPod]] = {}

    def pod_count(self, key: RunKey) -> int:
        """Number of pods with a run's label."""
        return len(self._pods.get(key, ()))

    @property
    def under_way(self) -> int:
        """Number of runs whose phase is not in `AT_REST`."""
        return len(self._under_way)

    def version(self, item: ObjectKey) -> int | None:
        """The last seen resource version of an object; None: unknown."""
        return self._versions.get(item)

    def keys(self) -> tuple[RunKey, ...]:
        """All runs, and the runs in the labels of JobSets and pods, which may be deleted."""
        return tuple(self._runs.keys() | self._jobsets.keys() | self._pods.keys())

    def run(self, key: RunKey) -> RunView | None:
        """A run; None if it was not seen."""
        return self._runs.get(key)

    def waiting_for(self, key: RunKey) -> tuple[RunKey, ...]:
        """The runs that have not begun and whose `spec.after` is the given run."""
        return tuple(self._after.get(key, ()))

    def jobsets(self, key: RunKey) -> tuple[SeenJobSet, ...]:
        """The JobSets with a run's label."""
        return tuple(self._jobsets.get(key, {}).values())

    def pods(self, key: RunKey) -> tuple[SeenPod, ...]:
        """The pods with a run's label."""
        return tuple(self._pods.get(key, {}).values())

    def saw_run(self, document: object, *, deleted: bool = False) -> None:
        """Record a run, or its deletion."""
        item = _object_key("trainingruns", document)
        if not self._newer(item, _version(document), deleted):
            return
        if deleted:
            self._forget_run(item[1:])
            return
        self._forget_after(item[1:])
        self._runs[item[1:]] = run = parse_run_view(document)
        if run.status.attempt == 0 and (after := text(value_at(run.raw_spec, "after", "run"))):
            self._after.setdefault((run.namespace, after), set()).add(item[1:])
        (self._under_way.discard if run.status.phase in AT_REST else self._under_way.add)(item[1:])

    def saw_jobset(self, key: RunKey, document: object, *, deleted: bool = False) -> None:
        """Record a JobSet of a run, or its deletion."""
        item = _object_key("jobsets", document)
        if self._newer(item, _version(document), deleted):
            _put(self._jobsets, key, item[2], None if deleted else SeenJobSet(document))

    def saw_pod(self, key: RunKey, pod: SeenPod, *, deleted: bool = False) -> None:
        """Record a pod of a run, or its deletion."""
        if self._newer(pod.key, pod.version, deleted):
            _put(self._pods, key, pod.key[2], None if deleted else pod)

    def listed(self, key: RunKey, run: object, jobsets: Iterable[object], pods: Iterable[SeenPod]) -> None:
        """Record all objects of a run, as listed by the API server.

        Other objects are dropped: the watch may have missed their deletion.
        """
        jobsets, pods = tuple(jobsets), tuple(pods)
        self._drop("jobsets", key, self._jobsets, {text(value_at(thing, "metadata", "name")) for thing in jobsets})
        self._drop("pods", key, self._pods, {pod.key[2] for pod in pods})
        if run is None:
            self._versions.pop(("trainingruns", *key), None)
            self._forget_run(key)
        else:
            self.saw_run(run)
        for jobset in jobsets:
            self.saw_jobset(key, jobset)
        for pod in pods:
            self.saw_pod(key, pod)

    def _forget_run(self, key: RunKey) -> None:
        self._forget_after(key)
        self._runs.pop(key, None)
        self._under_way.discard(key)

    def _forget_after(self, key: RunKey) -> None:
        """Drop the last seen prerequisite of a run."""
        run = self._runs.get(key)
        prerequisite = (key[0], text(value_at(run.raw_spec, "after", "run"))) if run is not None else None
        if prerequisite is not None and (others := self._after.get(prerequisite)) is not None:
            others.discard(key)
            if not others:
                del self._after[prerequisite]

    def _drop(self, kind: WatchedKind, key: RunKey, table: _Table, kept: set[str]) -> None:
        for name in [name for name in table.get(key, ()) if name not in kept]:
            _put(table, key, name, None)
            self._versions.pop((kind, key[0], name), None)

    def _newer(self, item: ObjectKey, version: int, deleted: bool) -> bool:
        """Whether this version is not older than the known one. Versions increase within a kind."""
        if version < self._versions.get(item, 0):
            return False
        if deleted:
            self._versions.pop(item, None)
        else:
            self._versions[item] = version
        return True


def _version(document: object) -> int:
    return integer(value_at(document, "metadata", "resourceVersion")) or 0


def _object_key(kind: WatchedKind, document: object) -> ObjectKey:
    metadata = value_at(document, "metadata")
    return kind, text(value_at(metadata, "namespace")), text(value_at(metadata, "name"))


def _put(table: _Table, key: RunKey, name: str, seen: object) -> None:
    entries: dict[str, object] = table.setdefault(key, {})  # type: ignore[assignment, arg-type]
    if seen is None:
        entries.pop(name, None)
    else:
        entries[name] = seen
    if not entries:
        table.pop(key, None)
