"""Checks of combinations that no schema can express, made before anything is allocated.

The operator's condition, ``halcyon validate`` and the start of the trainer all use one pure function, so that they
agree.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import dataclass

from halcyon_api.counting import counted
from halcyon_api.elastic import microbatches_on, usable_slices, wanted_slices
from halcyon_api.hardware.gpu_attention import gpu_kernel
from halcyon_api.memory import host_memory_problem, memory_problem
from halcyon_api.mesh import model_shape, run_mesh
from halcyon_api.objectives import objective_problems
from halcyon_api.places import rows_of
from halcyon_api.result_documents import CORE, TASK_NAMES
from halcyon_api.schedules import Problems, schedule_problems
from halcyon_api.spec.accelerator import Topology
from halcyon_api.spec.mesh import AXES, InvalidMesh, ResolvedMesh, splitting
from halcyon_api.spec.optimizer import InvalidGroup
from halcyon_api.spec.tokenizer import VOCABULARY_MULTIPLE
from halcyon_api.spec.trainer import NARROW_MOMENTS_BETA
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.yaml_text import dump

_MOST_YAML_BYTES = 3
"""More than the bytes of a character of JSON in YAML, with its folded and indented lines."""
MAX_DOCUMENT_BYTES = 1_000_000
"""Largest document of a run, as YAML.

A ConfigMap gives it to the pods, and the API server takes 1,048,576 bytes of data in one.
"""


@dataclass(frozen=True)
class Problem:
    """One error of a run document: its field and one sentence with the fix."""

    field: str
    message: str

    @classmethod
    def of(cls, error: Exception) -> Problem:
        """The problem that an error describes as ``FIELD: MESSAGE``."""
        field, _, message = str(error).partition(": ")
        return cls(field, message)

    def __str__(self) -> str:
        return self.message if self.message.startswith(self.field) else f"{self.field}: {self.message}"


def find_problems(spec: TrainingRunSpec, topology: Topology | None = None) -> tuple[Problem, ...]:
    """All errors of a run on its own topology, or on another one."""
    topology = topology or spec.accelerator.resolve()
    try:
        mesh = run_mesh(spec, topology)
    except InvalidMesh as error:
        return (Problem.of(error),)
    found = itertools.chain(
        _size_problems(spec),
        _batch_problems(spec, mesh),
        _length_problems(spec, mesh),
        _window_problems(spec),
        _attention_problems(spec),
        _dropout_problems(spec, mesh),
        _split_problems(spec, mesh),
        _memory_problems(spec, mesh),
        _snapshot_problems(spec),
        _data_problems(spec),
        _set_problems(spec),
        _validation_problems(spec),
        _task_problems(spec),
        _adapter_problems(spec),
        schedule_problems(spec.optimizer, spec.trainer) if spec.has_steps else (),
        _precision_problems(spec),
        _group_problems(spec),
        _elastic_problems(spec),
        _flip_problems(spec, topology),
        _place_problems(spec),
    )
    return tuple(itertools.starmap(Problem, found))


def _size_problems(spec: TrainingRunSpec) -> Problems:
    sections = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    if len(json.dumps(sections)) * _MOST_YAML_BYTES < MAX_DOCUMENT_BYTES:
        return
    size = len(dump(sections).encode())
    if size <= MAX_DOCUMENT_BYTES:
        return
    sizes = {name: len(dump(section).encode()) for name, section in sections.items()}
    largest = max(sizes, key=lambda name: sizes[name])
    yield (
        "spec",
        f"it has {size:,} bytes, {sizes[largest]:,} of them in spec.{largest}, and pods get at most "
        f"{MAX_DOCUMENT_BYTES:,}; name files by a pattern with *, and put templates into files",
    )


def _snapshot_problems(spec: TrainingRunSpec) -> Problems:
    stays = spec.recovery.in_place and spec.recovery.max_restarts > 0
    if spec.checkpoint.memory is not None and spec.task == "train" and not stays:
        yield (
            "spec.checkpoint.memory",
            "the memory of a pod ends with it, so this needs recovery.inPlace: true and a recovery.maxRestarts above 0",
        )


def _batch_problems(spec: TrainingRunSpec, mesh: ResolvedMesh) -> Problems:
    """A batch that the devices do not divide is filled with rows without weight. An answer of a policy has no such row,
    and an elastic run would have another share of them on each number of slices.
    """
    trainer, shards = spec.trainer, mesh.data_parallelism
    unit = shards * trainer.least_microbatches
    whole = "objective.policy" if spec.objective.policy is not None else "recovery.elastic"
    needs_whole = spec.objective.policy is not None or spec.recovery.elastic is not None
    sizes = {"spec.trainer.batchSize": trainer.batch_size}
    sizes |= {
        f"spec.trainer.batchSchedule[{n}].batchSize": entry.batch_size
        for n, entry in enumerate(trainer.batch_schedule)
        if entry.batch_size
    }
    for field, size in sizes.items():
        filled = -(-size // (-(-size // unit) * shards))
        if size % unit and needs_whole:
            yield (
                field,
                f"with {whole} {size} must be a multiple of the data parallelism times microbatches, {shards} x "
                f"{trainer.least_microbatches}; the next one is {-(-size // unit) * unit}",
            )
        elif filled < trainer.least_microbatches:
            yield (
                field,
                f"{size} sequences fill {filled} of {trainer.least_microbatches} microbatches on "
                f"{counted(shards, 'data-parallel device')}; give trainer.microbatches at most {filled}",
            )


def _length_problems(spec: TrainingRunSpec, mesh: ResolvedMesh) -> Problems:
    """All sequence lengths of a run must divide the longest one, because its data is laid out in sequences of that
    length.

    A device of a `context` axis holds two parts of a sequence, so an axis of size n needs lengths that are multiples of
    2n.
    """
    trainer = spec.trainer
    lengths = {"spec.trainer.sequenceLength": trainer.sequence_length}
    lengths |= {
        f"spec.trainer.batchSchedule[{n}].sequenceLength": entry.sequence_length
        for n, entry in enumerate(trainer.batch_schedule)
        if entry.sequence_length
    }
    longest, parts = max(lengths.values()), 2 * mesh.context
    if mesh.context > 1 and spec.model.whole_sequences:
        yield "spec.mesh.ici.context", f"a model of the family {spec.model.family} needs whole sequences; set 1"
    for field, length in lengths.items():
        if longest % length:
            yield (
                field,
                f"{length} does not divide {longest}, the longest sequence of the run; choose a length that does",
            )
    for field, length in lengths.items():
        if mesh.context > 1 and length % parts:
            yield (
                field,
                f"{length} must be a multiple of twice the context axis of the mesh, 2 x {mesh.context}, because each "
                f"of its devices holds two parts of a sequence; the next one is {-(-length // parts) * parts}",
            )


def _window_problems(spec: TrainingRunSpec) -> Problems:
    """A window longer than the longest sequence hides nothing, so its size is an error of the document.

    A run that begins with another model has the window of that model, and may train it on shorter sequences. A run that
    makes its tokens does not use the model.
    """
    window, longest = spec.model.stated_window, spec.trainer.longest_sequence
    if spec.task == "data" or spec.origin is not None or window is None or window <= longest:
        return
    sentence = (
        f"a window of {window} positions is longer than the longest sequence of the run, {longest}; give at most "
        f"{longest}"
    )
    yield "spec.model.slidingWindow", f"{sentence}, or longer sequences"


def _attention_problems(spec: TrainingRunSpec) -> Problems:
    """Rejects a named implementation of attention that lacks a part of the model's attention.

    The other ones have all parts.
    """
    needs, version = spec.model.attention_needs, spec.accelerator.row.compute_capability
    if spec.trainer.attention != "tokamax" or needs is None or version is None:
        return
    apart = not spec.data.attend_across_documents
    kernel = gpu_kernel(version, needs.head_size, needs.value_size, soft_cap=needs.soft_cap, ranges=apart)
    if isinstance(kernel, str):
        yield "spec.trainer.attention", f"{kernel}; use auto for {spec.model.family}"


def _dropout_problems(spec: TrainingRunSpec, mesh: ResolvedMesh) -> Problems:
    """Only attention ``reference``, which no mesh splits by positions, drops weights of keys."""
    dropout, attention = spec.trainer.dropout, spec.trainer.attention
    if dropout is not None and max(dropout.frames, dropout.bands) > 0 and spec.model.sound is None:
        yield "spec.trainer.dropout", f"{spec.model.family} hears no sound to drop frames or bands of; leave them out"
    if dropout is None or not dropout.attention:
        return
    if spec.model.whole_sequences:
        yield "spec.trainer.dropout.attention", f"{spec.model.family} has no attention; take it out"
    if attention not in ("auto", "reference"):
        yield "spec.trainer.dropout.attention", f"attention {attention} drops no weights; set trainer.attention: auto"
    if mesh.context > 1:
        yield "spec.trainer.dropout.attention", "a mesh with a context axis drops no weights; set mesh.ici.context: 1"


def _split_problems(spec: TrainingRunSpec, mesh: ResolvedMesh) -> Problems:
    """Each size of the model must be a multiple of each mesh axis that splits it."""
    splits = model_shape(spec).splits
    for row in AXES:
        for split in splits:
            if split.axis in row.splits and split.size % mesh.size(row.name):
                yield (
                    f"spec.model.{split.field}",
                    f"{split.size} must be a multiple of the {row.name} axis of the mesh, {mesh.size(row.name)}",
                )
    for row in splitting("vocabulary"):
        if VOCABULARY_MULTIPLE % mesh.size(row.name):
            yield (
                f"spec.{row.path}",
                f"{mesh.size(row.name)} must divide {VOCABULARY_MULTIPLE}, because the vocabulary is split over it",
            )


def _memory_problems(spec: TrainingRunSpec, mesh: ResolvedMesh) -> Problems:
    """The run must fit into the memory of a device and of a host, where the type of the accelerator says how large they
    are.
    """
    available = spec.accelerator.row.memory_bytes
    if available is not None and (problem := memory_problem(spec, mesh, available, devices=1, where="each device")):
        yield problem
    if problem := host_memory_problem(spec, mesh):
        yield problem


def _elastic_problems(spec: TrainingRunSpec) -> Problems:
    """An elastic run must be able to train on its minimum and maximum number of slices.

    Unusable numbers between them are skipped.
    """
    elastic = spec.recovery.elastic
    if elastic is None:
        return
    usable = ", ".join(map(str, usable_slices(spec))) or "none"
    for name, slices in (("minSlices", elastic.min_slices), ("maxSlices", elastic.max_slices)):
        if slices is not None and microbatches_on(spec, slices) is None:
            yield (
                f"spec.recovery.elastic.{name}",
                f"the batch cannot be distributed evenly over {slices} slices with at most as many rows per device as "
                f"on {spec.accelerator.slices}; of the numbers from {elastic.min_slices} to {wanted_slices(spec)} "
                f"these can be used: {usable}",
            )


def _place_problems(spec: TrainingRunSpec) -> Problems:
    """The run must be able to train in each of its rows, and have each once."""
    rows = [row.but(place=None) for row in rows_of(spec)]
    for number, row in enumerate(rows[1:]):
        field = f"spec.place.otherwise[{number}]"
        if row in rows[: number + 1]:
            yield field, "a row before it is the same; leave it out"
        for rule in TrainingRunSpec.rules:
            if not rule.holds(row):
                yield field, f"in this row, {rule.message}"
        for problem in find_problems(row):
            yield field, f"in this row, {problem}"


def _flip_problems(spec: TrainingRunSpec, topology: Topology) -> Problems:
    """The bit must change in a process that the run has, before an audit."""
    flip = None if spec.recovery.audit is None else spec.recovery.audit.flip_bit
    if flip is None:
        return
    field, hosts = "spec.recovery.audit.flipBit", topology.slices * topology.hosts_per_slice
    if flip.process >= hosts:
        yield f"{field}.process", f"must be below {hosts}, the number of processes"
    if flip.step >= spec.trainer.steps:
        yield f"{field}.step", f"must be below trainer.steps, which is {spec.trainer.steps}"


def _precision_problems(spec: TrainingRunSpec) -> Problems:
    """Some update rules need float32: their moments decay slowly, or they compute a mean of parameters from the
    parameters.
    """
    names, precision = spec.optimizer.rule_names, spec.trainer.precision
    wide = next((name for name, rule in zip(names, spec.optimizer.used_rules, strict=True) if rule.wide_only), None)
    field = "spec.trainer.precision"
    if wide is not None and precision.moments != "float32":
        yield f"{field}.moments", f"the update rule {wide} stores its moments in float32; use float32"
    decay = _slowest_decay(spec)
    if (
        wide is None
        and precision.moments == "bfloat16"
        and precision.moments_rounding is None
        and decay > NARROW_MOMENTS_BETA
    ):
        sentence = (
            f"a moment in bfloat16 stops changing with a decay above {NARROW_MOMENTS_BETA}, and a rule of this run has "
            f"{decay:g}; set momentsRounding to stochastic, use float32, or lower the decay"
        )
        yield f"{field}.moments", sentence


def _slowest_decay(spec: TrainingRunSpec) -> float:
    """The largest decay of a moment among the rules of a run and its groups."""
    settings = [spec.optimizer.value, spec.optimizer.matrices]
    for group in spec.optimizer.groups or ():
        with contextlib.suppress(InvalidGroup):  # a problem of its own
            settings.append(spec.optimizer.settings_of(group))
    return max(getattr(one, name, 0.0) for one in settings for name in ("beta1", "beta2", "momentum"))


def _group_problems(spec: TrainingRunSpec) -> Problems:
    """The rule of a group must have the settings that the group changes."""
    for number, group in enumerate(spec.optimizer.groups or ()):
        try:
            spec.optimizer.settings_of(group)
        except InvalidGroup as error:
            yield f"spec.optimizer.groups[{number}].{error.field}", str(error)


def _data_problems(spec: TrainingRunSpec) -> Problems:
    if spec.task == "data" and spec.accelerator.type != "cpu":
        yield (
            "spec.accelerator.type",
            "a run of task data only tokenizes, for which it needs no accelerator; take cpu",
        )
    yield from objective_problems(spec)


def _adapter_problems(spec: TrainingRunSpec) -> Problems:
    """An adapter needs weights that it is trained beside."""
    if spec.adapter is not None and spec.origin is None:
        yield (
            "spec.adapter",
            "it is trained beside the weights of a model; name them in spec.from, or leave adapter out",
        )
    if spec.lora and spec.lora.base is not None:
        only = spec.origin and spec.origin.only is not None
        for field, is_set in (("spec.average", spec.average is not None), ("spec.from.only", only)):
            if is_set:
                yield field, "codes of weights (adapter.lora.base) have none; leave this or base out"


def _set_problems(spec: TrainingRunSpec) -> Problems:
    """Tags name held-out sources, have names of their own, and `best.of` names a source or a tag."""
    evaluation, field = spec.trainer.evaluation, "spec.trainer.evaluation"
    tags = evaluation.by_source.tags if evaluation.by_source is not None else []
    validation = {source.name for source in spec.data.sources if spec.data.held_out(source)}
    names = [*(source.name for source in spec.data.sources), *(tag.name for tag in tags)]
    for tag in tags:
        for name in tag.sources:
            if name not in validation:
                yield (
                    f"{field}.bySource.tags[{tag.name}].sources",
                    f"{name} is no source with a held-out part; there are {_names(validation)}",
                )
    for name in dict.fromkeys(tag.name for tag in tags):
        if names.count(name) > 1:
            yield f"{field}.bySource.tags[{name}].name", "a source or another tag has this name; choose another one"
    wanted = evaluation.best.of if evaluation.best is not None else None
    known = validation | {tag.name for tag in tags}
    if wanted is not None and wanted not in known:
        yield f"{field}.best.of", f"{wanted} is no tag and no source with a held-out part; there are {_names(known)}"


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _validation_problems(spec: TrainingRunSpec) -> Problems:
    if (
        spec.task != "evaluate"
        or any(map(spec.data.held_out, spec.data.sources))
        or spec.trainer.evaluation.tasks is not None
    ):
        return
    yield (
        "spec.data.validation.fraction",
        "nothing is held out to evaluate on; raise it, or give a source validation.fraction: 1 to evaluate on all "
        "of it",
    )


def _task_problems(spec: TrainingRunSpec) -> Problems:
    """Tasks have names that exist, and files in the trainer's file system."""
    tasks, field = spec.trainer.evaluation.tasks, "spec.trainer.evaluation.tasks"
    if tasks is None:
        return
    if spec.task == "data":
        yield field, "a run of task data has no model to ask; leave tasks out"
        return
    if not tasks.files:
        yield f"{field}.files", f"there is no task; give the path of one or more of {', '.join((*TASK_NAMES, CORE))}"
    for name in tasks.files:
        if name not in (*TASK_NAMES, CORE):
            yield f"{field}.files.{name}", f"there is no such task; the tasks are {', '.join((*TASK_NAMES, CORE))}"
        elif (name == "speech") != (spec.model.sound is not None):
            yield f"{field}.files.{name}", "only whisper writes down speech, and it answers nothing else; take it out"
    for name, path in tasks.files.items():
        if not path or "://" in path:
            yield (
                f"{field}.files.{name}",
                f"{path or 'an empty path'} is no path in the trainer's file system; mount the file with data.volume",
            )


SLOW_SUMS = (
    "spec.trainer.precision.products: float8 with sums of 32 bits gave nothing on an H100 (a step of 1.2 billion "
    "parameters took 772 ms, in bfloat16 715 ms; products of experts took 2.3 times as long); compare by `halcyon "
    "plan`, with narrowProducts.fastAccumulation too"
)
"""The warning about a run that `has_slow_sums`."""


def has_slow_sums(spec: TrainingRunSpec) -> bool:
    """Whether a run multiplies in float8 with sums of 32 bits on GPUs of compute capability 9, where they take time."""
    narrow, version = spec.trainer.precision.narrow, spec.accelerator.row.compute_capability
    return narrow is not None and (narrow.kind, version) == ("float8", (9, 0)) and narrow.fast_accumulation != "always"
