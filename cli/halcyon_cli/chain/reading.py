"""Reads the stages of a chain from their roots, and follows the lineage that each run has recorded.

A root is one stage. A run that began from another one recorded the root of that run, so the chain is read backwards
from its last run. The root of a run of task ``evaluate`` is not a stage: its results belong to the run whose checkpoint
it evaluated. The notes name everything that cannot be read, and the report is made without it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from halcyon.host.clock import timestamp
from halcyon.host.errors import TrainerExit
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon.telemetry.history.reading import read_history
from halcyon.telemetry.history.samples import DamagedSamples, read_samples, sampled_steps
from halcyon_api.checkpoint_documents import Manifest
from halcyon_api.plain_files import read_text
from halcyon_api.result_documents import EVALUATION_KEY, TASKS_PREFIX, EvaluationDocument, TaskResults, results_step
from halcyon_api.spec.checkpoint import normal_root
from halcyon_cli.chain.stage import Rollout, Stage
from halcyon_cli.output import Rejected

_MOST_ROLLOUTS = 4
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


def read_chain(stores: Sequence[Store], open_root: Callable[[str], Store], folders: Sequence[Path] = ()) -> Chain:
    """Read a chain.

    Args:
        stores: The roots that the user named, in their order. Of each, the runs that it began from are read too.
        open_root: Opens another root by its address.
        folders: Folders of ``halcyon eval --results``.

    Raises:
        Rejected: A root that the user named has nothing to report, or a folder has no results.
        StoreFailure: A root that the user named did not answer.
    """
    reader = _Reader(open_root)
    for store in stores:
        reader.add(store, asked=True)
    for folder in folders:
        reader.add_results(folder)
    return reader.chain()


class _Reader:
    """Collects stages, each once, the origin of a stage before the stage."""

    def __init__(self, open_root: Callable[[str], Store]) -> None:
        self._open = open_root
        self._stages: dict[str, Stage] = {}
        self._seen: set[str] = set()
        self._evaluating: list[tuple[EvaluationDocument, tuple[TaskResults, ...]]] = []
        self._results: list[tuple[str, TaskResults, bool]] = []
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
        if origin is not None and origin.run is not None:
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

    def add_results(self, folder: Path) -> None:
        """Add the results that ``halcyon eval --results`` wrote into a folder."""
        path = folder / "results.json"
        try:
            found: Any = json.loads(read_text(path))
            place, step = found["place"], found.get("step")  # weights of other programs have no step
            root = place.rpartition("@")[0] or place
            more = {
                "tasks": (*found["tasks"], *found.get("coreTasks", ())),
                "step": step or 0,
                "finished": True,
                "time": timestamp(path.stat().st_mtime),
            }
            results = TaskResults.model_validate({"prompts": "plain"} | found | more, by_alias=True, by_name=False)
        except OSError as error:
            raise Rejected(f"{path}: {error.strerror}; give the folder of `halcyon eval --results FOLDER`") from None
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
            raise Rejected(f"{path} has no results of `halcyon eval`; run it again with --results") from None
        self._results.append((root, results, step is None))

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
        for place, results, of_newest in self._results:
            owner = _owner(stages, _address(place), None)
            if owner is None:
                notes.append(
                    f"the results of `halcyon eval {place}` are not shown, because this root is no stage of the chain"
                )
                continue
            stage = stages[owner]
            if of_newest:
                step = stage.manifest.step if stage.manifest is not None else stage.last_step
                results = results.but(step=step)
            stages[owner] = replace(stage, results=_merged(*stage.results, results))
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
    return Stage(run, store.root, history, manifest, results, rollouts=_rollouts_in(store, notes), notes=tuple(notes))


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


def _rollouts_in(store: Store, notes: list[str]) -> tuple[Rollout, ...]:
    """The answers that a run of reinforcement learning has kept of its newest step."""
    steps = sampled_steps(store)
    try:
        found = read_samples(store, steps[-1]) if steps else None
    except DamagedSamples as damage:
        notes.append(f"the sampled answers of step {steps[-1]} cannot be read: {damage}")
        return ()
    if found is None:
        return ()
    answers = (
        Rollout(found.step, sample.prompt, answer, reward)
        for sample in found.samples
        for answer, reward in zip(sample.answers, sample.rewards, strict=True)
    )
    return tuple(islice(answers, _MOST_ROLLOUTS))


def _merged(*results: TaskResults) -> tuple[TaskResults, ...]:
    """Results in the order of steps, and of one step in the order of time, so that later ones count."""
    return tuple(sorted(results, key=lambda one: (one.step, one.time)))


def _owner(stages: dict[str, Stage], root: str | None, run: str | None) -> str | None:
    """The root of the stage that results belong to: by its root, else by the only run of this name."""
    if root is not None and normal_root(root) in stages:
        return normal_root(root)
    named = [place for place, stage in stages.items() if stage.run == run]
    return named[0] if root is None and len(named) == 1 else None


def _address(place: str) -> str:
    from halcyon_api.local_roots import root_address

    return normal_root(root_address(place))
