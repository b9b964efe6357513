"""Every rule of the contract, each with a document that breaks it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from halcyon_api.base import ApiModel, Rule
from halcyon_api.defaults.resource import TrainingRunDefaults
from halcyon_api.generate.crd import reachable
from halcyon_api.hardware import TABLE
from halcyon_api.spec.accelerator import AcceleratorSpec
from halcyon_api.training_run import TrainingRun
from tests.api.documents import document

Case = tuple[str, dict[str, Any]]
"""The beginning of the rule's message, and the document."""


def all_rules() -> list[Rule]:
    """The rules of both resources."""
    models = {**reachable(TrainingRun), **reachable(TrainingRunDefaults)}
    return [rule for model in models.values() if issubclass(model, ApiModel) for rule in model.rules]


def defaults(**checkpoint: Any) -> dict[str, Any]:
    """Defaults that only set where checkpoints are stored."""
    return {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRunDefaults",
        "metadata": {"name": "default"},
        "spec": {"checkpoint": checkpoint},
    }


def _rule_about(beginning: str, name: str) -> str:
    """The message of the hardware's rule that begins like this and lists a name in its subject."""
    subject = re.compile(rf"{beginning} (\S+(, | and ))*{name}( and|,| is| must| exist)")
    return next(rule.message for rule in AcceleratorSpec.rules if subject.match(rule.message))


def _hardware() -> Iterator[Case]:
    for row in TABLE.values():
        yield _rule_about("topology of", row.name), document(spec__accelerator={"type": row.name, "topology": "7x7x7"})
        smaller = [count for count in row.devices_per_host if count < row.largest_host]
        if row.part_hosts_provisioning:
            part = {"type": row.name, "topology": f"1x{smaller[0]}"}
            yield f"hosts of {row.name} with fewer than", document(spec__accelerator=part)
        if row.fabric is not None and len(row.devices_per_host) > 1:
            part = {"type": row.name, "topology": f"1x{smaller[0]}", "network": "gpuDirect"}
            bought = {"provisioning": row.part_hosts_provisioning[0]} if row.part_hosts_provisioning else {}
            yield f"network gpuDirect of {row.name}", document(spec__accelerator=part | bought)
        if row.family == "tpu" and "flexStart" in row.provisioning:
            wide = next(name for name in row.topologies if (shape := row.shape(name)) is not None and shape.hosts > 1)
            several = {"type": row.name, "topology": wide, "provisioning": "flexStart"}
            yield "topology of a TPU slice with provisioning flexStart", document(spec__accelerator=several)
    for kind in ("spot", "flexStart", "queued"):
        yield _rule_about("provisioning", kind), document(spec__accelerator__provisioning=kind)
    reserved = {"type": "cpu", "provisioning": "reservation", "reservation": "ours"}
    yield "provisioning reservation exists for", document(spec__accelerator=reserved)
    yield "set reservation together with", document(spec__accelerator={"type": "v6e", "reservation": "ours"})
    yield (
        "reservationProject needs",
        document(spec__accelerator={"type": "v6e", "reservationProject": "others-project"}),
    )
    yield "network gpuDirect exists for", document(spec__accelerator__network="gpuDirect")
    yield "computeDomain exists for", document(spec__accelerator__computeDomain="x")


def _model(kind: str, **fields: Any) -> dict[str, Any]:
    return document(spec__model={"family": kind} | fields)


_SECRET = {"secretKeyRef": {"name": "hub", "key": "token"}}
_TPU, _GPU = {"type": "v5e", "topology": "2x4"}, {"type": "h100", "topology": "1x8"}
_BLACKWELL = {"type": "b200", "topology": "1x8"}
_TRAINER = {"steps": 10, "batchSize": 8, "sequenceLength": 32}
_OTHER = {"run": "base"}

BROKEN: tuple[Case, ...] = (
    *_hardware(),
    (
        "hiddenSize must be a multiple of numAttentionHeads, or headDim set",
        document(spec__model__numAttentionHeads=5),
    ),
    ("numKeyValueHeads must divide numAttentionHeads", document(spec__model__numKeyValueHeads=3)),
    ("a head must have an even number of features", document(spec__model__numAttentionHeads=64)),
    ("hiddenSize must be a multiple of numAttentionHeads", _model("qwen3", numAttentionHeads=5)),
    ("numKeyValueHeads must divide", _model("olmo2", numKeyValueHeads=5)),
    ("a head must have an even number", _model("gemma", headDim=7)),
    ("gemma has no exact gelu", _model("gemma", hiddenAct="gelu")),
    ("layerTypes must have one entry", _model("gemma3", layerTypes=["full_attention"])),
    ("layerTypes has sliding_attention", _model("qwen2", numHiddenLayers=1, layerTypes=["sliding_attention"])),
    ("ropeScaling needs a factor", _model("mistral", ropeScaling={"ropeType": "linear"})),
    (
        "ropeScaling of type llama3 or yarn needs",
        document(spec__model__ropeScaling={"ropeType": "yarn", "factor": 4}),
    ),
    (
        "lowFreqFactor must be less",
        document(
            spec__model__ropeScaling={
                "ropeType": "llama3",
                "factor": 8,
                "originalMaxPositionEmbeddings": 64,
                "lowFreqFactor": 4,
            }
        ),
    ),
    ("numExpertsPerTok must be at most numLocalExperts", _model("mixtral", numExpertsPerTok=9)),
    ("numExpertsPerTok must be at most numExperts", _model("qwen3Moe", numExpertsPerTok=129)),
    ("numExpertsPerTok must be at most nRoutedExperts", _model("glm4Moe", numExpertsPerTok=65)),
    ("nGroup must divide nRoutedExperts", _model("glm4Moe", nGroup=3)),
    ("topkGroup must be at most nGroup", _model("glm4Moe", topkGroup=2)),
    ("numKeyValueHeads must be numAttentionHeads", _model("deepseekV3", numKeyValueHeads=2)),
    ("qkRopeHeadDim must be even", _model("deepseekV3", qkRopeHeadDim=7)),
    ("the rotated features of a head", _model("glm4Moe", headDim=6)),
    ("numExpertsPerTok must be at most numExperts", _model("qwen3Next", numExpertsPerTok=129)),
    ("linearNumKeyHeads must divide", _model("qwen3Next", linearNumKeyHeads=5)),
    ("hiddenSize must be a multiple of headDim", _model("nanochat", hiddenSize=100)),
    ("numKeyValueHeads must divide the query heads", _model("nanochat", numKeyValueHeads=5)),
    ("headDim must be even", _model("nanochat", headDim=7)),
    ("matrices is for rules for hidden matrices", document(spec__optimizer={"adamw": {}, "matrices": {}})),
    ("a group needs match or roles", document(spec__optimizer={"adamw": {}, "groups": [{"learningRate": 2.0}]})),
    (
        "a frozen group is not updated",
        document(spec__optimizer={"adamw": {}, "groups": [{"match": "*", "frozen": True, "beta2": 0.9}]}),
    ),
    ("best needs evaluations", document(spec__trainer__evaluation={"best": {}})),
    (
        "best.of and a macro average need bySource",
        document(spec__trainer__evaluation={"everySteps": 5, "best": {"average": "macro"}}),
    ),
    ("mesh.ici axes are positive", document(spec__mesh={"ici": {"data": -1}})),
    ("mesh.dcn axes are positive", document(spec__mesh={"dcn": {"replica": 0}})),
    (
        "rows.start must be below",
        document(spec__data__sources=[{"name": "a", "stdlib": {}, "rows": {"start": 4, "end": 4}}]),
    ),
    (
        "give every source a weight",
        document(spec__data__sources=[{"name": "a", "stdlib": {}, "weight": 1}, {"name": "b", "stdlib": {}}]),
    ),
    ("at least one source needs", document(spec__data__sources=[{"name": "a", "stdlib": {}, "weight": 0}])),
    (
        "mixture.schedule names a source",
        document(spec__data__mixture={"schedule": [{"fromStep": 1, "weights": [{"source": "absent", "weight": 1}]}]}),
    ),
    ("root must be file:///PATH", document(spec__checkpoint__root="file:///a/../b")),
    ("checkpoint.endpoint belongs to an s3:// root;", document(spec__checkpoint__endpoint="http://store:7070")),
    ("volumeClaim belongs to", document(spec__checkpoint={"root": "s3://bucket/a", "volumeClaim": "claim"})),
    (
        "checkpoint.credentialsSecret belongs to an s3:// root;",
        document(spec__checkpoint__credentialsSecret={"name": "secret"}),
    ),
    ("minSlices must not be greater", document(spec__recovery={"elastic": {"minSlices": 2, "maxSlices": 1}})),
    (
        "set either required or preferred",
        document(spec__scheduling={"queue": {"name": "a", "topology": {"required": "r", "preferred": "b"}}}),
    ),
    ("set required, preferred or slice", document(spec__scheduling={"queue": {"name": "a", "topology": {}}})),
    ("give value or valueFrom", document(spec__env=[{"name": "XLA_FLAGS", "value": "a", "valueFrom": _SECRET}])),
    ("this name is reserved for Halcyon", document(spec__env=[{"name": "HALCYON_ATTEMPT", "value": "9"}])),
    ("a name that ends in _TOKEN", document(spec__env=[{"name": "HF_TOKEN", "value": "hf_abc"}])),
    ("from begins a training", document(spec__from=_OTHER, spec__task="data")),
    ("task: evaluate needs from.run", document(spec__task="evaluate")),
    ("set exactly one of run and huggingFace", document(spec__from={"step": 3})),
    (
        "set exactly one of run and huggingFace",
        document(spec__from={**_OTHER, "huggingFace": {"path": "/models/base"}}),
    ),
    ("dataPosition needs step", document(spec__from={"run": "other", "dataPosition": 0})),
    (
        "dataPosition needs step, and a run with weightsOnly begins",
        document(spec__from={"run": "other", "step": 3, "weightsOnly": True, "dataPosition": 0}),
    ),
    ("step and root belong to run", document(spec__from={"huggingFace": {"path": "/models/base"}, "step": 3})),
    ("from.step must be less", document(spec__from={**_OTHER, "step": 10})),
    (
        "the family huggingFace names a file",
        document(spec__model={"family": "huggingFace", "configFile": "/models/base/config.json"}),
    ),
    ("export writes the models of a training", document(spec__export={"everySteps": 5}, spec__task="data")),
    (
        "export writes the files of",
        document(spec__export={"everySteps": 5}, spec__model={"family": "custom", "class": "package.module:Class"}),
    ),
    ("export.root is checkpoint.root", document(spec__export={"everySteps": 5, "root": "file:///checkpoints/small"})),
    ("export.root must be file:///PATH", document(spec__export={"everySteps": 5, "root": "file:///a/../b"})),
    ("from.root is the other run's", document(spec__from={**_OTHER, "root": "file:///checkpoints/small"})),
    (
        "give at most one of cycles, cycleLengths",
        document(spec__optimizer={"adamw": {}, "schedule": {"phases": {"cycles": 2, "cycleLengths": [5, 5]}}}),
    ),
    (
        "trainer.precision.moments: bfloat16 needs",
        document(spec__trainer__precision={"moments": "bfloat16"}, spec__optimizer={"adamw": {"beta2": 0.99}}),
    ),
    ("trainer.precision.momentsRounding needs", document(spec__trainer__precision={"momentsRounding": "stochastic"})),
    ("trainer.precision.rounding needs", document(spec__trainer__precision={"rounding": "stochastic"})),
    ("trainer.precision.products: float8 needs", document(spec__trainer__precision={"products": "float8"})),
    ("trainer.precision.products: int8 needs", document(spec__trainer__precision={"products": "int8"})),
    (
        "trainer.precision.products: mxfp8 and nvfp4 need",
        document(spec__trainer__precision={"products": "mxfp8"}, spec__accelerator=_GPU),
    ),
    (
        "trainer.precision.products: mxfp8 and nvfp4 need",
        document(spec__trainer__precision={"products": "nvfp4"}, spec__accelerator=_GPU),
    ),
    ("trainer.precision.narrowProducts needs", document(spec__trainer__precision={"narrowProducts": {}})),
    *(
        (
            f"trainer.precision.narrowProducts.{field}{f': {value}' if isinstance(value, bool) else ''} is for".replace(
                "True", "true"
            ),
            document(
                spec__trainer__precision={"products": kind, "narrowProducts": {field: value}},
                spec__accelerator=_BLACKWELL,
            ),
        )
        for field, value, kind in (
            ("scales", "tensor", "mxfp8"),
            ("gradients", "e5m2", "int8"),
            ("fastAccumulation", "always", "mxfp8"),
            ("parameterGradients", True, "nvfp4"),
            ("head", True, "int8"),
        )
    ),
    ("trainer.attention: splash is a kernel", document(spec__trainer__attention="splash")),
    ("trainer.attention: tokamax has kernels", document(spec__trainer__attention="tokamax")),
    (
        "trainer.attention: splash and tokamax compute",
        document(spec__trainer__attention="splash", spec__accelerator=_TPU),
    ),
    ("trainer.attention: ring needs", document(spec__trainer__attention="ring")),
    (
        "trainer.attention: only ring",
        document(spec__trainer__attention="reference", spec__mesh={"ici": {"context": 2}}),
    ),
    ("set chipHours, money or until", document(spec__budget={})),
    ("until must be a time of 2020 to 2199 with its zone", document(spec__budget={"until": "tomorrow"})),
    ("budget.money needs accelerator.pricePerChipHour", document(spec__budget={"money": 5})),
    ("accelerator.slices must lie", document(spec__recovery={"elastic": {"minSlices": 3}})),
    (
        "leave mesh.dcn.replica out",
        document(spec__recovery={"elastic": {"minSlices": 1}}, spec__mesh={"dcn": {"replica": 2}}),
    ),
    (
        "recovery.elastic cannot be used with",
        document(spec__recovery={"elastic": {"minSlices": 1}}, spec__scheduling={"queue": {"name": "research"}}),
    ),
    ("task: replay needs from.run and from.step", document(spec__task="replay", spec__from={"run": "base"})),
    ("toStep must be more", document(spec__task="replay", spec__from={"run": "base", "step": 9, "toStep": 9})),
    ("spec.from.run is the run itself", document(spec__from={"run": "small"})),
    ("spec.after.run is the run itself", document(spec__after={"run": "small"})),
    ("rootPrefix must not contain", defaults(rootPrefix="s3://bucket/../a")),
    ("endpoint belongs to an s3:// rootPrefix", defaults(rootPrefix="gs://bucket/a", endpoint="http://store:7070")),
    (
        "credentialsSecret belongs to an s3:// rootPrefix",
        defaults(rootPrefix="gs://bucket/a", credentialsSecret={"name": "secret"}),
    ),
)
