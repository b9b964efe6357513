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
    yield "fabric exists for GPUs", document(spec__accelerator__fabric="eks-p5")
    elsewhere = {"type": "h100", "topology": "1x8", "fabric": "eks-p5", "provisioning": "spot"}
    yield "fabric is for clusters other than GKE", document(spec__accelerator=elsewhere)


def _model(kind: str, **fields: Any) -> dict[str, Any]:
    return document(spec__model={"family": kind} | fields)


_SECRET = {"secretKeyRef": {"name": "hub", "key": "token"}}
_TPU, _GPU = {"type": "v5e", "topology": "2x4"}, {"type": "h100", "topology": "1x8"}
_BLACKWELL = {"type": "b200", "topology": "1x8"}
_TRAINER = {"steps": 10, "batchSize": 8, "sequenceLength": 32}
_PLACE: dict[str, Any] = {"otherwise": [{"accelerator": {"type": "cpu"}}]}
_OTHER = {"run": "base"}


def _broken(beginning: str, **changes: Any) -> Case:
    return beginning, document(**changes)


BROKEN: tuple[Case, ...] = (
    *_hardware(),
    _broken("hiddenSize must be a multiple of numAttentionHeads, or headDim set", spec__model__numAttentionHeads=5),
    _broken("numKeyValueHeads must divide numAttentionHeads", spec__model__numKeyValueHeads=3),
    _broken("a head must have an even number of features", spec__model__numAttentionHeads=64),
    ("hiddenSize must be a multiple of numAttentionHeads", _model("qwen3", numAttentionHeads=5)),
    ("numKeyValueHeads must divide", _model("olmo2", numKeyValueHeads=5)),
    ("a head must have an even number", _model("gemma", headDim=7)),
    ("gemma has no exact gelu", _model("gemma", hiddenAct="gelu")),
    ("layerTypes must have one entry", _model("gemma3", layerTypes=["full_attention"])),
    ("vision.headDim must be a multiple of 4", _model("qwen2", vision={"headDim": 6})),
    ("layerTypes has sliding_attention", _model("qwen2", numHiddenLayers=1, layerTypes=["sliding_attention"])),
    ("ropeScaling needs a factor", _model("mistral", ropeScaling={"ropeType": "linear"})),
    _broken("ropeScaling of type llama3 or yarn needs", spec__model__ropeScaling={"ropeType": "yarn", "factor": 4}),
    _broken(
        "lowFreqFactor must be less",
        spec__model__ropeScaling={
            "ropeType": "llama3",
            "factor": 8,
            "originalMaxPositionEmbeddings": 64,
            "lowFreqFactor": 4,
        },
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
    ("hiddenSize must be a multiple of numSenses", _model("backpack", numSenses=5)),
    ("hiddenSize must be an even multiple of numAttentionHeads", _model("whisper", numAttentionHeads=5)),
    ("hiddenSize must be a multiple of encoderAttentionHeads", _model("whisper", encoderAttentionHeads=5)),
    ("encoders (modernBert) have objective.maskedToken, which only they have", _model("modernBert")),
    _broken("matrices is for rules for hidden matrices", spec__optimizer={"adamw": {}, "matrices": {}}),
    _broken("a group needs match or roles", spec__optimizer={"adamw": {}, "groups": [{"learningRate": 2.0}]}),
    _broken(
        "a frozen group is not updated",
        spec__optimizer={"adamw": {}, "groups": [{"match": "*", "frozen": True, "beta2": 0.9}]},
    ),
    _broken("best needs evaluations", spec__trainer__evaluation={"best": {}}),
    _broken(
        "best.of and a macro average need bySource",
        spec__trainer__evaluation={"everySteps": 5, "best": {"average": "macro"}},
    ),
    _broken("mesh.ici axes are positive", spec__mesh={"ici": {"data": -1}}),
    _broken("mesh.dcn axes are positive", spec__mesh={"dcn": {"replica": 0}}),
    _broken(
        "rows.start must be below", spec__data__sources=[{"name": "a", "stdlib": {}, "rows": {"start": 4, "end": 4}}]
    ),
    _broken(
        "give every source a weight",
        spec__data__sources=[{"name": "a", "stdlib": {}, "weight": 1}, {"name": "b", "stdlib": {}}],
    ),
    _broken("at least one source needs", spec__data__sources=[{"name": "a", "stdlib": {}, "weight": 0}]),
    _broken(
        "mixture.schedule names a source",
        spec__data__mixture={"schedule": [{"fromStep": 1, "weights": [{"source": "absent", "weight": 1}]}]},
    ),
    _broken("root must be file:///PATH", spec__checkpoint__root="file:///a/../b"),
    _broken(
        "checkpoint.endpoint and checkpoint.credentialsSecret belong", spec__checkpoint__endpoint="http://store:7070"
    ),
    _broken("volumeClaim belongs to", spec__checkpoint={"root": "s3://bucket/a", "volumeClaim": "claim"}),
    _broken(
        "checkpoint.endpoint and checkpoint.credentialsSecret belong",
        spec__checkpoint__credentialsSecret={"name": "secret"},
    ),
    _broken("minSlices must not be greater", spec__recovery={"elastic": {"minSlices": 2, "maxSlices": 1}}),
    _broken(
        "set either required or preferred",
        spec__scheduling={"queue": {"name": "a", "topology": {"required": "r", "preferred": "b"}}},
    ),
    _broken("set required, preferred or slice", spec__scheduling={"queue": {"name": "a", "topology": {}}}),
    _broken("give value or valueFrom", spec__env=[{"name": "XLA_FLAGS", "value": "a", "valueFrom": _SECRET}]),
    _broken("this name is reserved for Halcyon", spec__env=[{"name": "HALCYON_ATTEMPT", "value": "9"}]),
    _broken("a name that ends in _TOKEN", spec__env=[{"name": "HF_TOKEN", "value": "hf_abc"}]),
    _broken("from begins a training", spec__from=_OTHER, spec__task="data"),
    _broken("task: evaluate needs from.run", spec__task="evaluate"),
    _broken("task: sample samples the answers of a run", spec__task="sample"),
    _broken("set exactly one of run and huggingFace", spec__from={"step": 3}),
    _broken("set exactly one of run and huggingFace", spec__from={**_OTHER, "huggingFace": {"path": "/models/base"}}),
    _broken("dataPosition needs step", spec__from={"run": "other", "dataPosition": 0}),
    _broken(
        "dataPosition needs step, and a run with weightsOnly begins",
        spec__from={"run": "other", "step": 3, "weightsOnly": True, "dataPosition": 0},
    ),
    _broken("step and root belong to run", spec__from={"huggingFace": {"path": "/models/base"}, "step": 3}),
    _broken("from.step must be less", spec__from={**_OTHER, "step": 10}),
    _broken(
        "the family huggingFace names a file",
        spec__model={"family": "huggingFace", "configFile": "/models/base/config.json"},
    ),
    _broken("export writes the models of a training", spec__export={"everySteps": 5}, spec__task="data"),
    _broken(
        "export writes the files of",
        spec__export={"everySteps": 5},
        spec__model={"family": "custom", "class": "package.module:Class"},
    ),
    _broken("export.root is checkpoint.root", spec__export={"everySteps": 5, "root": "file:///checkpoints/small"}),
    _broken("export.root must be an address", spec__export={"everySteps": 5, "root": "file:///a/../b"}),
    _broken("from.root is the other run's", spec__from={**_OTHER, "root": "file:///checkpoints/small"}),
    _broken(
        "give at most one of cycles, cycleLengths",
        spec__optimizer={"adamw": {}, "schedule": {"phases": {"cycles": 2, "cycleLengths": [5, 5]}}},
    ),
    _broken(
        "trainer.precision.moments: bfloat16 needs",
        spec__trainer__precision={"moments": "bfloat16"},
        spec__optimizer={"adamw": {"beta2": 0.99}},
    ),
    _broken("trainer.precision.momentsRounding needs", spec__trainer__precision={"momentsRounding": "stochastic"}),
    _broken("trainer.precision.rounding needs", spec__trainer__precision={"rounding": "stochastic"}),
    _broken("trainer.precision.products: float8 needs", spec__trainer__precision={"products": "float8"}),
    _broken("trainer.precision.products: int8 needs", spec__trainer__precision={"products": "int8"}),
    _broken(
        "trainer.precision.products: mxfp8 and nvfp4 need",
        spec__trainer__precision={"products": "mxfp8"},
        spec__accelerator=_GPU,
    ),
    _broken(
        "trainer.precision.products: mxfp8 and nvfp4 need",
        spec__trainer__precision={"products": "nvfp4"},
        spec__accelerator=_GPU,
    ),
    _broken("trainer.precision.narrowProducts needs", spec__trainer__precision={"narrowProducts": {}}),
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
    _broken("trainer.attention: splash is a kernel", spec__trainer__attention="splash"),
    _broken("trainer.attention: tokamax has kernels", spec__trainer__attention="tokamax"),
    _broken("trainer.attention: splash and tokamax compute", spec__trainer__attention="splash", spec__accelerator=_TPU),
    _broken("trainer.attention: ring needs", spec__trainer__attention="ring"),
    _broken("trainer.attention: only ring", spec__trainer__attention="reference", spec__mesh={"ici": {"context": 2}}),
    _broken("set chipHours, money or until", spec__budget={}),
    _broken("until must be a time of 2020 to 2199 with its zone", spec__budget={"until": "tomorrow"}),
    _broken("budget.money needs accelerator.pricePerChipHour", spec__budget={"money": 5}),
    _broken("accelerator.slices must lie", spec__recovery={"elastic": {"minSlices": 3}}),
    _broken(
        "leave mesh.dcn.replica out", spec__recovery={"elastic": {"minSlices": 1}}, spec__mesh={"dcn": {"replica": 2}}
    ),
    _broken(
        "recovery.elastic cannot be used with",
        spec__recovery={"elastic": {"minSlices": 1}},
        spec__scheduling={"queue": {"name": "research"}},
    ),
    _broken("place cannot be used with", spec__recovery={"elastic": {"minSlices": 1}}, spec__place=_PLACE),
    _broken(
        "place.by cannot be used with",
        spec__place=_PLACE | {"by": "time"},
        spec__scheduling={"queue": {"name": "research"}},
    ),
    _broken("managedBy needs", spec__managedBy="kueue.x-k8s.io/multikueue"),
    _broken("deadline needs by: price", spec__place=_PLACE | {"deadline": "2026-12-31T00:00:00Z"}),
    _broken("deadline must be a time of", spec__place=_PLACE | {"by": "price", "deadline": "tomorrow"}),
    _broken("task: replay needs from.run and from.step", spec__task="replay", spec__from={"run": "base"}),
    _broken("toStep must be more", spec__task="replay", spec__from={"run": "base", "step": 9, "toStep": 9}),
    _broken("spec.from.run is the run itself", spec__from={"run": "small"}),
    _broken("spec.after.run is the run itself", spec__after={"run": "small"}),
    ("rootPrefix must not contain", defaults(rootPrefix="s3://bucket/../a")),
    (
        "endpoint belongs to an s3:// or az:// rootPrefix",
        defaults(rootPrefix="gs://bucket/a", endpoint="http://store:7070"),
    ),
    (
        "credentialsSecret belongs to an s3:// or az:// rootPrefix",
        defaults(rootPrefix="gs://bucket/a", credentialsSecret={"name": "secret"}),
    ),
)
