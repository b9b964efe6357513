"""Checks of ``spec.objective`` against the rest of a run: the form of its sources, the rows of its batches, its reference model. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from halcyon_api.spec.sources import DataSourceSpec
from halcyon_api.training_run import TrainingRunSpec


def objective_problems(spec: TrainingRunSpec) -> Iterator[tuple[str, str]]:
    """Each problem as the field and one sentence with the fix."""
    if spec.task == "data":  # tokens are the same for every objective
        return
    for source in spec.data.sources:
        yield from _source_problems(spec, source)
    objective = spec.objective
    if objective.next_token is None:
        yield from _row_problems(spec)
    if not _per_token(spec) and (best := spec.trainer.evaluation.best) is not None and best.metric == "bitsPerByte":
        yield (
            "spec.trainer.evaluation.best.metric",
            f"an evaluation with this objective.{objective.kind} has no bits per byte, because its loss is not one of tokens; take loss",
        )
    if objective.preference is not None:
        if spec.data.attend_across_documents:
            yield (
                "spec.data.attendAcrossDocuments",
                "with objective.preference an answer must not see the other one; leave it out",
            )
        if objective.preference.has_reference:
            yield from _reference_problems(spec, objective.preference.kind)


def has_reference_copy(spec: TrainingRunSpec) -> bool:
    """Whether the state of a run holds a reference model. With an adapter the frozen weights are the reference."""
    preference = spec.objective.preference
    return preference is not None and preference.has_reference and spec.adapter is None


def _per_token(spec: TrainingRunSpec) -> bool:
    """Whether the loss is in nats per token."""
    finetune = spec.objective.finetune
    return spec.objective.preference is None and (finetune is None or finetune.weighting == "token")


def _source_problems(spec: TrainingRunSpec, source: DataSourceSpec) -> Iterator[tuple[str, str]]:
    field, form = f"spec.data.sources[{source.name}].format", source.format
    objective = spec.objective
    if objective.preference is not None:
        if form.preference is None:
            yield field, f"objective.preference needs pairs, and {form.kind} has none; set format preference, or change the objective"
    elif form.preference is not None:
        yield (
            f"{field}.preference",
            "pairs of conversations need an objective that compares them; set objective.preference, or take format chat with the "
            "preferred messages",
        )
    elif objective.finetune is not None:
        if form.chat is not None and form.chat.loss_on == "all":
            yield f"{field}.chat.lossOn", "objective.finetune trains on the assistant's tokens alone; leave lossOn out"
        elif form.chat is None and (form.prebuilt is None or form.prebuilt.weights_field is None):
            yield (
                field,
                f"objective.finetune needs conversations, and {form.kind} has none; set format chat (or prebuilt with weightsField), or "
                "change the objective",
            )


def _row_problems(spec: TrainingRunSpec) -> Iterator[tuple[str, str]]:
    """The objective itself lays out its sources, in rows of one length."""
    kind = spec.objective.kind
    for source in spec.data.sources:
        if source.layout.concatenate is None:
            yield (
                f"spec.data.sources[{source.name}].layout",
                f"objective.{kind} packs whole conversations by itself; leave layout out",
            )
    for number, entry in enumerate(spec.trainer.batch_schedule):
        if entry.sequence_length not in (None, spec.trainer.sequence_length):
            yield (
                f"spec.trainer.batchSchedule[{number}].sequenceLength",
                f"objective.{kind} keeps conversations whole in rows of one length; leave it out",
            )


def _reference_problems(spec: TrainingRunSpec, kind: str) -> Iterator[tuple[str, str]]:
    """DPO and IPO compare with the weights that the run begins with."""
    lora = spec.lora
    if spec.task == "train" and (spec.origin is None or not spec.origin.takes_weights):
        yield (
            "spec.from",
            f"objective.preference.{kind} compares with the weights that the run begins with; name them: huggingFace, or a run with "
            "weightsOnly: true",
        )
    if lora is not None and lora.train_also:
        yield (
            "spec.adapter.lora.trainAlso",
            f"objective.preference.{kind} compares with the weights beside the adapter, so they must stay frozen; leave trainAlso out",
        )
