"""Reads the stages of a chain from their roots, and follows the lineage that each run has recorded.

A root is one stage. A run that began from another one recorded the root of that run, so the chain is read backwards
from its last run. The root of a run of task ``evaluate`` is not a stage: its results belong to the run whose checkpoint
it evaluated. The notes name everything that cannot be read, and the report is made without it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from halcyon.host.errors import TrainerExit
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon.telemetry.history.reading import read_history
from halcyon_api.checkpoint_documents import Manifest
from halcyon_api.result_documents import EVALUATION_KEY, TASKS_PREFIX, EvaluationDocument, TaskResults, results_step
from halcyon_api.spec.checkpoint import normal_root
from halcyon_cli.chain.stage import Stage
from halcyon_cli.output import Rejected

MOST_STAGES = 64
"""Roots of the longest chain."""


@dataclass(frozen=True)
class Chain:
    """A chain of runs.

    Attributes:
        stages: Its stages, each after the one that it began from.
        notes: What could not be read, one sentence each.
    """

    stages: tuple[Stage, ...]
    notes: tuple[str, ...]


def read_chain(stores: Sequence[Store], open_root: Callable[[str], Store]) -> Chain:
    """Read a chain.

    Args:
        stores: The roots that the user named, in their order. Of each, the runs that it began from are read too.
        open_root: Opens another root by its address.

    Raises:
        Rejected: A root that the user named has nothing to report.
        StoreFailure: A root that the user named did not answer.
    """
    reader = _Reader(open_root)
    for store in stores:
        reader.add(store, asked=True)
    return reader.chain()


class _Reader:
    """Collects stages, each once, the origin of a stage before the stage."""

    def __init__(self, open_root: Callable[[str], Store]) -> None:
        self._open = open_root
        self._stages: dict[str, Stage] = {}
        self._seen: set[str] = set()
        self._evaluating: list[tuple[EvaluationDocument, tuple[TaskResults, ...]]] = []
        self._notes: list[str] = []

    def add(self, store: Store, *, asked: bool) -> None:
        """Add a root, and the roots of the runs that its run began from."""
        if store.root in self._seen:
            return
        if len(self._seen) >= MOST_STAGES:
            self._notes.append(f"{store.root} is not shown, because a report has at most {MOST_STAGES} roots")
            return
        self._seen.add(store.root)
        evaluation = _evaluation_in(store, self._notes)
        results = _results_in(store, self._notes)
        if evaluation is not None:
            self._evaluating.append((evaluation, results))
            self._follow(
                evaluation.root, evaluation.run, f"the run {evaluation.run}, whose checkpoint {store.root} evaluates,"
            )
            return
        stage = _stage_in(store, results)
        if stage is None:
            if asked:
                raise Rejected(
                    f"{store.root} has no history, no checkpoint and no results; give the checkpoint root of a run"
                )
            self._notes.append(f"{store.root} has no history, no checkpoint and no results, so its run is not shown")
            return
        origin = stage.origin
        if origin and origin.run is not None:
            self._follow(origin.root, origin.run, f"the run {origin.run}, from which {stage.run} began,")
        self._stages[store.root] = stage

    def _follow(self, root: str | None, run: str, which: str) -> None:
        if root is None:
            if not any(stage.run == run for stage in self._stages.values()):
                self._notes.append(f"{which} is not shown, because its root is not recorded; give its root too")
            return
        try:
            self.add(self._open(root), asked=False)
        except (StoreFailure, TrainerExit) as error:
            self._notes.append(f"{which} is not shown, because its root cannot be read: {error}")

    def chain(self) -> Chain:
        """The chain of all roots and results that were added."""
        stages = dict(self._stages)
        notes = list(self._notes)
        for evaluation, results in self._evaluating:
            owner = _owner(stages, evaluation.root, evaluation.run)
            if owner is None:
                notes.append(
                    f"the results of the run {evaluation.owner.name} are not shown, because the run {evaluation.run} "
                    "is not there"
                )
                continue
            stage = stages[owner]
            evaluations = sorted((*stage.evaluations, evaluation), key=lambda one: one.checkpoint.step)
            stages[owner] = replace(stage, evaluations=tuple(evaluations), results=_merged(*stage.results, *results))
            if not evaluation.finished:
                notes.append(f"the run {evaluation.owner.name} has not evaluated everything yet")
        if not stages:
            raise Rejected(f"there is no training in the chain: {'; '.join(notes)}")
        for stage in stages.values():
            notes += (f"{stage.run}: {note}" for note in stage.notes)
        return Chain(tuple(stages.values()), tuple(notes))


def _stage_in(store: Store, results: tuple[TaskResults, ...]) -> Stage | None:
    notes: list[str] = []
    history = read_history(store)
    notes += history.damages
    manifest, name = _newest_manifest(store, notes)
    if not history.groups and manifest is None and not results:
        return None
    run = history.run or name or store.root.rsplit("/", 1)[-1]
    if not history.groups:
        notes.append("it has no history, so its curves, time and cost are not known")
    elif not history.complete:
        notes.append("it is not complete")
    if manifest is None:
        notes.append("it has no checkpoint, so its model and data are not known")
    if not results:
        notes.append("no results of tasks are kept in its root")
    elif not all(one.finished for one in results):
        notes.append("not all of its tasks are done")
    return Stage(run, store.root, history, manifest, results, notes=tuple(notes))


def _newest_manifest(store: Store, notes: list[str]) -> tuple[Manifest | None, str | None]:
    """The metadata of the newest checkpoint, and the name of the run that owns the root."""
    from halcyon.checkpoint.opening import load_head
    from halcyon.checkpoint.verify import Damaged, read_manifest

    try:
        head, _ = load_head(store)
    except TrainerExit as error:
        notes.append(str(error))
        return None, None
    if head is None:
        return None, None
    for entry in head.committed:
        try:
            return read_manifest(store, entry), head.owner.name
        except Damaged as damage:
            notes.append(f"the checkpoint of step {entry.step} is damaged: {damage}")
    return None, head.owner.name


def _evaluation_in(store: Store, notes: list[str]) -> EvaluationDocument | None:
    data = store.read(EVALUATION_KEY).data
    found = EvaluationDocument.parse(data)
    if found is None and data is not None:
        notes.append(f"{store.root}/{EVALUATION_KEY} is damaged, so its results are not shown")
    return found


def _results_in(store: Store, notes: list[str]) -> tuple[TaskResults, ...]:
    keys = [key for key in store.list(TASKS_PREFIX) if results_step(key) is not None]
    found = {key: TaskResults.parse(store.read(key).data) for key in keys}
    notes += (
        f"{store.root}/{key} is damaged, so its results are not shown" for key, one in found.items() if one is None
    )
    return _merged(*filter(None, found.values()))


def _merged(*results: TaskResults) -> tuple[TaskResults, ...]:
    """Results in the order of steps, and of one step in the order of time, so that later ones count."""
    return tuple(sorted(results, key=lambda one: (one.step, one.time)))


def _owner(stages: dict[str, Stage], root: str | None, run: str | None) -> str | None:
    """The root of the stage that results belong to: by its root, else by the only run of this name."""
    if root is not None and normal_root(root) in stages:
        return normal_root(root)
    named = [place for place, stage in stages.items() if stage.run == run]
    return named[0] if root is None and len(named) == 1 else None
