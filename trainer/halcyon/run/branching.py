"""``halcyon train --branch``: the changed document of a run becomes a run of its own, which begins from a checkpoint of
the first one.

The branch ``NAME`` of the run ``RUN`` in ``ROOT`` is the run ``RUN-NAME`` in ``ROOT-NAME``. Its document is that of the
run, with these names and ``spec.from``. A later start finds the checkpoint that the branch began from in the root of
the branch, so it goes on with the same document while the first run trains on.

Where the branch begins in the data is part of the document too (`data_position`): it goes on where the first run was,
unless the training order is another one.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from halcyon.checkpoint.opening import load_head
from halcyon.checkpoint.origin import origin_store
from halcyon.checkpoint.verify import readable
from halcyon.host.errors import BadConfiguration, NoValidCheckpoint, RootTaken
from halcyon.host.storage.failures import StoreFailure, as_exit
from halcyon.host.storage.store import Store
from halcyon.run.branch import Branch
from halcyon.run.context import Context
from halcyon.weights.chat_template import with_templates
from halcyon_api.base import InvalidRun
from halcyon_api.checkpoint_documents import (
    ORIGIN_KEY,
    CommittedStep,
    DamagedDocument,
    Manifest,
    OriginRecord,
    decode_origin,
)
from halcyon_api.reading import parse_run
from halcyon_api.spec.checkpoint import normal_root
from halcyon_api.spec.origin import OriginSpec
from halcyon_api.training_run import TrainingRun

_ORDER_OF_DATA = ("order", "validation", "attendAcrossDocuments")
_STEPS_SHOWN = 10


def branched(context: Context, branch: Branch) -> Context:
    """The branch of a run, in the same place.

    Args:
        context: The run with the changed document.
        branch: What the user asks for.

    Raises:
        BadConfiguration: The run is in a pod or does not train, the name is not valid, or the branch began already at
            another step.
        NoValidCheckpoint: The run has no such checkpoint.
        RootTaken: The root of the branch is that of another run.
        RootUnusable: A root does not answer.
    """
    run, spec = context.run, context.spec
    if context.in_pod:
        raise BadConfiguration("--branch: in a cluster a branch is a new run with spec.from; apply its document")
    if spec.task != "train":
        raise BadConfiguration(f"--branch: spec.task is {spec.task}; only a run of task train has branches")
    parent = OriginSpec(run=run.metadata.name, root=spec.checkpoint.root)
    own = _renamed(run, branch, parent)
    store, own_store = origin_store(parent, spec.checkpoint), Store(own.spec.checkpoint)
    try:
        record = _record(own_store)
        head, _ = load_head(own_store)
        if record is not None and head is not None and head.committed:
            origin = _as_before(record, branch, parent, own_store.root)
        else:  # it was killed before its first commit, if there is a record
            entry, manifest = _checkpoint(store, branch, parent, record and record.step)
            if entry.step >= spec.trainer.steps and not branch.weights_only:
                raise BadConfiguration(
                    f"spec.trainer.steps: run {parent.run} had done {entry.step} steps at its checkpoint, and a branch "
                    f"counts on from there; give more than {entry.step}, or an earlier --from-step"
                )
            position = None
            if not branch.weights_only:
                sections = with_templates(spec).document()
                decides = {f"spec.{name}": sections[name] for name in ("data", "trainer", "tokenizer", "objective")}
                position = data_position(decides, manifest)
            origin = parent.but(step=entry.step, weights_only=branch.weights_only or None, data_position=position)
    except StoreFailure as failure:
        raise as_exit(failure, store.root) from None
    document = own.document()
    document["spec"]["from"] = origin.document()
    return replace(context, run=_parsed(document, branch), owner=context.owner.but(name=own.metadata.name))


def data_position(document: Mapping[str, Any], manifest: Manifest) -> int | None:
    """Where a branch begins in the training order: ``spec.from.dataPosition``. Pure.

    Args:
        document: The sections of the branch that decide its numbers, as in `Manifest.fingerprints`.
        manifest: The checkpoint that it begins from.

    Returns:
        None: where its step is, because order and sizes are those of the checkpoint. The position of the checkpoint,
        if only weights of sources, sizes of batches or the mixture differ. 0: another order.
    """
    then = manifest.fingerprints.documents
    if "spec.data" not in then or "spec.trainer" not in then:  # imported weights
        return None
    if _order(document) != _order(then):
        return 0
    return None if _sizes(document) == _sizes(then) else manifest.data_position.sequences


def _order(documents: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides the order of each source and its sequences."""
    data, trainer = documents["spec.data"], documents["spec.trainer"]
    sources = {one["name"]: {name: one[name] for name in one if name != "weight"} for one in data["sources"]}
    lengths = [trainer["sequenceLength"], *(one.get("sequenceLength", 0) for one in trainer["batchSchedule"])]
    simulated = data["mixture"].get("simulateTokens")
    return (
        sources,
        *(data.get(name) for name in _ORDER_OF_DATA),
        documents["spec.tokenizer"],
        list(documents["spec.objective"]),
        trainer["seed"],
        max(lengths),
        None if simulated is None else (simulated, *_sizes(documents)),
    )


def _sizes(documents: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides how many sequences of each source the steps take."""
    data, trainer = documents["spec.data"], documents["spec.trainer"]
    sizes = tuple(trainer[name] for name in ("batchSize", "sequenceLength", "batchSchedule"))
    return *sizes, data["mixture"], [one.get("weight") for one in data["sources"]]


def _renamed(run: TrainingRun, branch: Branch, parent: OriginSpec) -> TrainingRun:
    """The run with the names and roots of the branch, so that it writes nothing where the first run writes."""
    document = run.document()
    document["metadata"]["name"] = f"{parent.run}-{branch.name}"
    for section in ("checkpoint", "export"):
        place = document["spec"].get(section)
        if place is not None and "root" in place:
            place["root"] = f"{place['root'].rstrip('/')}-{branch.name}"
    return _parsed(document, branch)


def _parsed(document: dict[str, Any], branch: Branch) -> TrainingRun:
    try:
        return parse_run(document)
    except InvalidRun as error:
        raise BadConfiguration(f"--branch {branch.name}: {error}") from None


def _record(store: Store) -> OriginRecord | None:
    """What the root of the branch says about its beginning; None: the branch has not begun."""
    data = store.read(ORIGIN_KEY).data
    if data is None:
        return None
    try:
        return decode_origin(data)
    except DamagedDocument as damage:
        raise NoValidCheckpoint(f"{store.root}: {damage}; give the branch another name") from None


def _as_before(record: OriginRecord, branch: Branch, parent: OriginSpec, root: str) -> OriginSpec:
    """``spec.from`` of a branch that has begun."""
    if (record.run, record.root) != (parent.run, normal_root(parent.root or "")):
        raise RootTaken(
            f"--branch {branch.name}: {root} began from run {record.run} in {record.root}; give the branch another name"
        )
    if branch.step not in (None, record.step):
        raise BadConfiguration(
            f"--from-step {branch.step}: branch {branch.name} began at step {record.step}; leave --from-step out to go "
            "on, or give the new branch another name"
        )
    if branch.weights_only and not record.weights_only:
        raise BadConfiguration(
            f"--weights-only: branch {branch.name} began with the whole state; leave --weights-only out to go on, or "
            "give the new branch another name"
        )
    return parent.but(step=record.step, weights_only=record.weights_only or None, data_position=record.data_position)


def _checkpoint(store: Store, branch: Branch, parent: OriginSpec, tried: int | None) -> tuple[CommittedStep, Manifest]:
    """The checkpoint of the first run that the branch begins from: the named step, else the one that a killed process
    of the branch has `tried`, if it is still there, else the newest.
    """
    head, _ = load_head(store)
    committed = () if head is None else head.committed
    if not committed:
        raise NoValidCheckpoint(
            f"--branch {branch.name}: run {parent.run} has no checkpoint in {store.root} yet; leave --branch out to "
            "train it"
        )
    wanted = branch.step
    if wanted is None and any(entry.step == tried for entry in committed):
        wanted = tried
    for entry, manifest in readable(store, committed):
        if wanted in (None, entry.step):
            return entry, manifest
    steps = ", ".join(str(entry.step) for entry in committed[:_STEPS_SHOWN])
    raise NoValidCheckpoint(
        f"--from-step {wanted}: run {parent.run} has no checkpoint of this step in {store.root}; its steps are {steps}"
    )
