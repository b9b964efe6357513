"""A wrong document is rejected with a message that names the field and the fix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.base import InvalidRun
from halcyon_api.reading import load_run, parse_run
from halcyon_api.sentences import PATTERNS
from halcyon_api.spec.checkpoint import ADDRESS_SCHEMA
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.api.documents import document, minimal_spec

H100: dict[str, Any] = {"type": "h100", "topology": "1x8", "slices": 1}
BFLOAT16, CONTEXT = {"compute": "bfloat16"}, {"ici": {"context": 2}}
BY_TOKAMAX: dict[str, Any] = {
    "spec__trainer__attention": "tokamax",
    "spec__trainer__precision": BFLOAT16,
    "spec__accelerator": H100,
}

SCHEMA_FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"spec__optimizer": {"adamw": {"lr": 1}}}, "spec.optimizer.adamw.lr", "did you mean spec.optimizer.learningRate?"),
    ({"spec__bogus": 8}, "spec.bogus", "unknown field; there are defaults, image"),
    ({"spec__bogus": None}, "spec.bogus", "unknown field; there are defaults, image"),
    ({"spec__trainer__" + "x" * 10_000: 8}, f"spec.trainer.{'x' * 60}…", "unknown field; there are steps"),
    ({"spec__data__sources": [{"name": "x", "txt": {}}]}, "spec.data.sources.0.txt", "did you mean text?"),
    ({"spec__trainer": 8}, "spec.trainer", "must be an object with the fields steps, batchSize"),
    ({"metadata__name": True}, "metadata.name", "must be a text, not true; put it in quotes"),
    (
        {"spec__trainer__microbatches": 0},
        "spec.trainer.microbatches",
        "must be a whole number from 1 to 65536, or auto",
    ),
    (
        {"spec__trainer__microbatches": "many"},
        "spec.trainer.microbatches",
        "must be a whole number from 1 to 65536, or auto",
    ),
    (
        {"spec__trainer__remat": "some"},
        "spec.trainer.remat",
        "'none', 'dots', 'attention', 'full', 'nested', 'offload' or 'auto'",
    ),
    ({"spec__accelerator__type": "v9"}, "spec.accelerator.type", "unknown accelerator 'v9'; there are cpu, v4, v5e"),
    ({"spec__accelerator__type": "rtx4090"}, "spec.accelerator.type", "nvidia is any other NVIDIA GPU"),
    ({"spec__accelerator__hostResources": {"memory": "16GB"}}, "spec.accelerator.hostResources.memory", "16G or 16Gi"),
    ({"spec__accelerator__type": "nvidia-h100-80gb"}, "spec.accelerator.type", "did you mean h100?"),
    ({"spec__accelerator__type": "v" * 10_000}, "spec.accelerator.type", "unknown accelerator"),
    ({"spec__accelerator": {"type": "v5p", "topology": "8x4x4"}}, "spec.accelerator", "do not fall"),
    ({"spec__accelerator": {"type": "v4", "topology": "16x16x20"}}, "spec.accelerator", "at most 64 cubes"),
    ({"spec__accelerator": {"type": "h100", "topology": "2x3"}}, "spec.accelerator", "1 or 2 or 4 or 8 devices a host"),
    (
        {"spec__accelerator": {"type": "h100", "topology": "2x4"}},
        "spec.accelerator",
        "sold as spot or flexStart or queued only",
    ),
    (
        {"spec__accelerator": {"type": "h100", "topology": "2x4", "provisioning": "spot", "network": "gpuDirect"}},
        "spec.accelerator",
        "network gpuDirect of h100 exists for hosts with 8 devices only",
    ),
    (
        {"spec__accelerator": {"type": "v4", "topology": "2x2x1", "provisioning": "flexStart"}},
        "spec.accelerator",
        "leave it out, and choose nodes of cpu or nvidia by scheduling.nodeSelector; the types are v5e, v5p",
    ),
    ({"spec__scheduling": {"nodeSelector": {"a b": "c"}}}, "spec.scheduling.nodeSelector", "is no key of a label"),
    ({"spec__scheduling": {"labels": {"halcyon.dev/run": "c"}}}, "spec.scheduling.labels", "take another key"),
    (
        {"spec__scheduling": {"nodeSelector": {"a": "c d"}}},
        "spec.scheduling.nodeSelector.a",
        "must begin and end with a letter",
    ),
    (
        {"spec__scheduling": {"tolerations": [{"key": "a", "effect": "Never"}]}},
        "spec.scheduling.tolerations.0.effect",
        "'NoSchedule'",
    ),
    ({"spec__accelerator": {"type": "v5e", "topology": "3x3"}}, "spec.accelerator", "one of 1x1, 2x2, 2x4"),
    ({"spec__accelerator": {"type": "cpu", "topology": "9999x1"}}, "spec.accelerator", "at most 1024 hosts"),
    ({"spec__accelerator__slices": 257}, "spec.accelerator.slices", "less than or equal to 256"),
    (
        {"spec__accelerator": {"type": "v6e", "provisioning": "reservation"}},
        "spec.accelerator",
        "set reservation together",
    ),
    (
        {"spec__accelerator": {"type": "v6e", "topology": "4x8", "provisioning": "flexStart"}},
        "spec.accelerator",
        "set provisioning: queued",
    ),
    (
        {"spec__accelerator": {"type": "v5p", "topology": "4x4x4", "provisioning": "flexStart"}},
        "spec.accelerator",
        "must have one host",
    ),
    (
        {
            "spec__accelerator": {
                "type": "v6e",
                "provisioning": "reservation",
                "reservation": "r",
                "reservationProject": "projects/x",
            }
        },
        "spec.accelerator.reservationProject",
        "must be the ID of a project",
    ),
    ({"spec__model": {}}, "spec.model.family", "required, and not there; add it, such as family: llama"),
    ({"spec__model__family": "bert"}, "spec.model.family", "there is no family 'bert'; there are apertus, backpack"),
    ({"spec__model__family": 3}, "spec.model.family", "there is no family '3'; there are apertus, backpack"),
    ({"spec__model": [1]}, "spec.model", "must be an object with the fields family"),
    (
        {"spec__model": {"family": "nanochat", "numHiddenLayers": 2}},
        "spec.model.numHiddenLayers",
        "no field of nanochat; did you mean depth?",
    ),
    (
        {"spec__model": {"family": "qwen3", "layers": 2}},
        "spec.model.layers",
        "unknown field; did you mean numHiddenLayers?",
    ),
    (
        {"spec__model__kvHeads": 2},
        "spec.model.kvHeads",
        "unknown field; did you mean numKeyValueHeads?",
    ),
    (
        {"spec__model__ropeScaling": {"ropeType": "dynamic", "factor": 2.0}},
        "spec.model.ropeScaling.ropeType",
        "must be 'default', 'linear', 'llama3' or 'yarn'",
    ),
    ({"spec__adapter": {"lora": {"dropout": 1.0}}}, "spec.adapter.lora.dropout", "less than 1"),
    ({"spec__adapter": {"lora": {"rank": 0}}}, "spec.adapter.lora.rank", "greater than or equal to 1"),
    ({"spec__adapter": {"lora": {"targets": []}}}, "spec.adapter.lora.targets", "at least 1"),
    ({"spec__checkpoint__root": "https://example.org/x"}, "spec.checkpoint", "file:///PATH, s3://BUCKET/PATH"),
    ({"spec__checkpoint__root": "s3://user@bucket/path"}, "spec.checkpoint", "s3://BUCKET/PATH"),
    ({"spec__checkpoint__keep": 1}, "spec.checkpoint.keep", "greater than or equal to 2"),
    (
        {"spec__checkpoint__permanent": [{"everySteps": 10}, {"everySteps": 20}]},
        "spec.checkpoint",
        "every entry but the last needs an untilStep",
    ),
    (
        {"spec__checkpoint__permanent": [{"everySteps": 10, "untilStep": 50}, {"everySteps": 20, "untilStep": 50}]},
        "spec.checkpoint",
        "in rising order of untilStep",
    ),
    ({"spec__data__sources": []}, "spec.data.sources", "at least 1"),
    ({"spec__data__sources": [{"name": "a", "stdlib": {}}] * 2}, "spec.data", "two sources have one name"),
    *(
        (
            {
                "spec__data__sources": [{"name": "a", "stdlib": {}}],
                "spec__data__mixture": {"schedule": [{"fromStep": step, "weights": weights} for step in steps]},
            },
            "spec.data",
            sentence,
        )
        for steps, weights, sentence in (
            ((5, 5), [{"source": "a", "weight": 1}], "mixture.schedule must be in rising order of fromStep"),
            ((8,), [{"source": "a", "weight": 0}], "the entry of mixture.schedule from step 8 needs a weight above 0"),
        )
    ),
    ({"spec__env": [{"name": "SSL_CERT_FILE", "value": "9"}]}, "spec.env.0", "leave it out (name SSL_CERT_FILE)"),
    ({"spec__env": [{"name": "XLA_FLAGS"}]}, "spec.env.0", "give value or valueFrom, and not both"),
    ({"spec__env": [{"name": "XLA_FLAGS", "value": "a"}] * 2}, "spec.env", "XLA_FLAGS is set twice"),
    ({"spec__env": [{"name": "xla", "value": "a"}]}, "spec.env.0.name", "capital letters"),
    ({"spec__data__sources": [{"name": "x"}]}, "spec.data.sources.0", "exactly one of stdlib, text"),
    ({"spec__optimizer": {"learningRate": float("nan"), "adamw": {}}}, "spec.optimizer.learningRate", "finite"),
    *(
        (
            {"spec__trainer__precision": {"moments": "bfloat16"}, "spec__optimizer": {"adamw": betas}},
            "spec",
            "trainer.precision.moments: bfloat16 needs optimizer.adamw.beta1 and beta2 of at most 0.95",
        )
        for betas in ({"beta2": 0.999}, {"beta2": 0.99}, {"beta1": 0.96})
    ),
    (
        {"spec__trainer__precision": {"moments": "float16"}},
        "spec.trainer.precision.moments",
        "'float32', 'bfloat16' or 'float8'",
    ),
    *(
        (
            {"spec__trainer__precision": {"moments": moments, "momentsRounding": "stochastic"}},
            "spec",
            "leave momentsRounding out",
        )
        for moments in ("float32", "float8")
    ),
]


@pytest.mark.parametrize(
    ("changes", "field", "mend"), SCHEMA_FAULTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_error_names_the_field_and_the_fix(changes: dict[str, Any], field: str, mend: str) -> None:
    with pytest.raises(InvalidRun) as refused:
        parse_run(document(**changes))
    assert str(refused.value).startswith(f"{field}: ")
    assert mend in str(refused.value)


def test_no_error_of_a_spec_shows_a_regular_expression() -> None:
    def patterns(schema: Any) -> Iterator[str]:
        for name, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
            if name == "pattern" and isinstance(value, str):
                yield value
            elif isinstance(value, dict | list):
                yield from patterns(value)

    described = {*PATTERNS, ADDRESS_SCHEMA["pattern"]}  # an address has a sentence of its own
    assert {*patterns(TrainingRunSpec.model_json_schema(by_alias=True))} <= described


def test_epochs_have_a_way_to_steps() -> None:
    for name in ("epochs", "numTrainEpochs"):
        with pytest.raises(InvalidRun) as refused:
            parse_run(document(spec__trainer__steps=..., **{f"spec__trainer__{name}": 3}))
        assert str(refused.value) == (
            f"spec.trainer.{name}: unknown field; did you mean steps? `halcyon data stats RUN.YAML --set "
            "spec.trainer.steps=1` prints the steps for 1, 2 and 3 epochs"
        )


@pytest.mark.parametrize("field", ["spec__trainer__evaluation", "spec__recovery", "spec__mesh", "spec__suspend"])
def test_a_field_without_a_value_is_absent_as_for_the_api_server(field: str) -> None:
    assert parse_run(document(**{field: None})) == parse_run(document())


@pytest.mark.parametrize(
    ("kind", "accelerator", "choices"),
    [
        (
            "float8",
            "h100",
            {"scales": "tensor", "gradients": "e4m3", "fastAccumulation": "forward", "parameterGradients": False},
        ),
        ("int8", "h100", {"parameterGradients": True, "head": False}),
        ("mxfp8", "b300", {"head": False}),
        ("nvfp4", "nvidia", {"parameterGradients": False}),
    ],
)
def test_choices_for_narrow_products_are_accepted_with_their_type(
    kind: str, accelerator: str, choices: dict[str, Any]
) -> None:
    precision = {"products": kind, "narrowProducts": choices}
    spec = minimal_spec(spec__trainer__precision=precision, spec__accelerator={"type": accelerator, "topology": "1x8"})
    narrow = spec.trainer.precision.narrow
    assert narrow is not None
    assert spec.trainer.precision.narrow_products.document().items() >= choices.items()  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
    "precision",
    [{"moments": "bfloat16"}, {"parameters": "bfloat16"}, {"parameters": "bfloat16", "moments": "bfloat16"}],
)
def test_narrow_moments_are_accepted_if_they_decay_fast_enough(precision: dict[str, str]) -> None:
    spec = minimal_spec(spec__trainer__precision=precision)
    assert spec.trainer.precision.moments == precision.get("moments", "float32")


@pytest.mark.parametrize("precision", [{"moments": "float8"}, {"moments": "bfloat16", "momentsRounding": "stochastic"}])
def test_moments_that_are_rounded_stochastically_may_decay_slowly(precision: dict[str, str]) -> None:
    spec = minimal_spec(spec__trainer__precision=precision, spec__optimizer={"adamw": {"beta2": 0.999}})
    assert spec.trainer.precision.moments == precision["moments"]


@pytest.mark.parametrize("number", [1e300, 1e-300, 5e-324, 3.5e38, 10**300], ids="{:.1e}".format)
def test_a_number_that_float32_does_not_have_is_rejected_with_its_field(number: float) -> None:
    custom = {"family": "custom", "class": "package.module:Model", "config": {"scales": [1.0, number]}}
    for field, changes in (
        ("spec.optimizer.weightDecay", {"spec__optimizer": {"weightDecay": number, "learningRate": 1.0, "adamw": {}}}),
        ("spec.model.config.scales.1", {"spec__model": custom}),
    ):
        with pytest.raises(InvalidRun, match=rf"^{field}: must be "):
            parse_run(document(**changes))


@pytest.mark.parametrize("number", [0, -0.0, 1.2e-38, 1e-30, 3.4e38])
def test_a_number_of_float32_is_accepted(number: float) -> None:
    optimizer = {"weightDecay": number, "learningRate": 1.0, "adamw": {}}
    parse_run(document(spec__optimizer=optimizer, spec__trainer__seed=2**32 - 1))


def test_all_faults_are_reported_in_one_error() -> None:
    with pytest.raises(InvalidRun) as refused:
        parse_run(document(spec__modle={}, spec__trainer__steps=0))
    assert "spec.modle" in str(refused.value)
    assert "spec.trainer.steps" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "field", "mend"),
    [
        ({"spec__adapter": {"lora": {}}}, "spec.adapter", "name them in spec.from, or leave adapter out"),
        ({"spec__mesh": {"ici": {"tensor": 3}}}, "spec.mesh.ici", "does not divide the 2 devices"),
        ({"spec__mesh": {"dcn": {"replica": 3}}}, "spec.mesh.dcn.replica", "set it to -1 or 2"),
        ({"spec__trainer__microbatches": 8}, "spec.trainer.batchSize", "give trainer.microbatches at most"),
        (
            {
                "spec__mesh": {"ici": {"fsdp": 1, "tensor": 2}},
                "spec__model__numKeyValueHeads": 1,
            },
            "spec.model.numKeyValueHeads",
            "multiple of the tensor axis of the mesh, 2",
        ),
        (
            {
                "spec__mesh": {"ici": {"fsdp": 1, "tensor": 2}},
                "spec__model": {"family": "olmo2", "hiddenSize": 64, "numAttentionHeads": 3, "headDim": 16},
            },
            "spec.model.numKeyValueHeads",
            "3 must be a multiple of the tensor axis of the mesh, 2",
        ),
        (
            {"spec__model": {"family": "mistral", "slidingWindow": 33}},
            "spec.model.slidingWindow",
            "a window of 33 positions is longer than the longest sequence of the run, 32; give at most 32, or longer "
            "sequences",
        ),
        (
            {
                "spec__mesh": {"ici": {"fsdp": 1, "expert": 2}},
                "spec__model": {"family": "mixtral", "numLocalExperts": 3},
            },
            "spec.model.numLocalExperts",
            "3 must be a multiple of the expert axis of the mesh, 2",
        ),
        ({"spec__model": {"family": "gemma3", "slidingWindow": 64}}, "spec.model.slidingWindow", "give at most 32"),
        (
            {"spec__mesh": {"ici": {"fsdp": 1, "context": 2}}, "spec__trainer__sequenceLength": 30},
            "spec.trainer.sequenceLength",
            "30 must be a multiple of twice the context axis of the mesh, 2 x 2, because each of its devices holds "
            "two parts of a sequence; the next one is 32",
        ),
        (
            {
                "spec__mesh": {"ici": {"fsdp": 1, "context": -1}},
                "spec__trainer__batchSchedule": [{"fromStep": 5, "sequenceLength": 2}],
            },
            "spec.trainer.batchSchedule[0].sequenceLength",
            "2 must be a multiple of twice the context axis of the mesh, 2 x 2",
        ),
        (
            {"spec__recovery": {"audit": {"everySteps": 5, "flipBit": {"step": 7, "process": 99}}}},
            "spec.recovery.audit.flipBit.process",
            "must be below",
        ),
        (
            {"spec__recovery": {"audit": {"everySteps": 5, "flipBit": {"step": 1_000_000, "process": 0}}}},
            "spec.recovery.audit.flipBit.step",
            "must be below trainer.steps, which is",
        ),
        (
            BY_TOKAMAX | {"spec__model": {"family": "gemma2"}, "spec__accelerator": {**H100, "type": "a100"}},
            "spec.trainer.attention",
            "on GPUs of compute capability 8.0, the Triton kernel has no soft cap of the scores; use auto for gemma2",
        ),
        (
            BY_TOKAMAX | {"spec__model": {"family": "qwen3", "headDim": 288}},
            "spec.trainer.attention",
            "on GPUs of compute capability 9.0, the Mosaic GPU kernel computes heads of at most 256 features, not 288; "
            "use auto for qwen3",
        ),
        (
            BY_TOKAMAX
            | {"spec__model": {"family": "qwen3", "headDim": 192}, "spec__accelerator": {**H100, "type": "l4"}},
            "spec.trainer.attention",
            "on GPUs of compute capability 8.9, the Triton kernel computes values of at most 128 features, not 192; "
            "use auto for qwen3",
        ),
    ],
)
def test_invalid_combinations_are_reported_before_anything_is_allocated(
    changes: dict[str, Any], field: str, mend: str
) -> None:
    problems = find_problems(minimal_spec(**changes))
    assert [problem.field for problem in problems] == [field]
    assert mend in str(problems[0])


@pytest.mark.parametrize(
    "model",
    [
        {"family": "gptOss", "slidingWindow": 32},
        {"family": "gemma2", "slidingWindow": 32},
        {"family": "deepseekV3"},
        {"family": "qwen3", "headDim": 36},
    ],
)
def test_tokamax_computes_sinks_soft_caps_values_of_another_size_and_any_width_on_a_hopper(
    model: dict[str, Any],
) -> None:
    assert find_problems(minimal_spec(**BY_TOKAMAX, spec__model=model)) == ()


@pytest.mark.parametrize(
    "window", [{"slidingWindow": 32}, {"slidingWindow": 64, "layerTypes": ["full_attention"] * 12}, {}]
)
def test_a_window_that_fits_or_is_not_used_is_no_problem(window: dict[str, Any]) -> None:
    assert find_problems(minimal_spec(spec__model={"family": "olmo3"} | window)) == ()


def test_a_model_that_is_finetuned_keeps_its_window_on_shorter_sequences() -> None:
    begins = {"huggingFace": {"path": "/models/mistral"}}
    wide = {"family": "mistral", "slidingWindow": 4096}
    assert find_problems(minimal_spec(spec__model=wide, spec__from=begins)) == ()
    assert find_problems(minimal_spec(spec__model=wide, spec__task="data")) == (), "the run that makes its tokens"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attention": "flash"}, "spec.trainer.attention"),
        ({"attention": "splash"}, "splash is a kernel for TPUs, which accelerator.type is not; use auto"),
        ({"attention": "splash", "precision": BFLOAT16, "spec__accelerator": H100}, "splash is a kernel for TPUs"),
        (
            {"attention": "tokamax", "precision": BFLOAT16},
            "tokamax has kernels for NVIDIA GPUs, which accelerator.type is not; use auto",
        ),
        ({"attention": "tokamax", "spec__accelerator": H100}, "set trainer.precision.compute to bfloat16, or use auto"),
        ({"attention": "ring"}, "set mesh.ici.context to 2 or more, or use auto"),
        ({"attention": "ring", "spec__mesh": {"ici": {"fsdp": 2}}}, "set mesh.ici.context to 2 or more, or use auto"),
        (
            {"attention": "blockwise", "spec__mesh": CONTEXT},
            "only ring serves a mesh with mesh.ici.context above 1; use ring or auto",
        ),
    ],
)
def test_a_named_attention_that_cannot_serve_is_rejected(changes: dict[str, Any], sentence: str) -> None:
    fields = {name if "__" in name else f"spec__trainer__{name}": value for name, value in changes.items()}
    with pytest.raises(InvalidRun, match=sentence):
        parse_run(document(**fields))


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "reference"},
        {"attention": "splash", "precision": BFLOAT16, "spec__accelerator": {"type": "v5e", "topology": "2x4"}},
        {"attention": "tokamax", "precision": BFLOAT16, "spec__accelerator": H100},
        {"attention": "ring", "spec__mesh": {"ici": {"fsdp": 1, "context": -1}}},
        {"attention": "auto", "spec__mesh": CONTEXT},
    ],
)
def test_a_named_attention_that_can_serve_is_accepted(changes: dict[str, Any]) -> None:
    fields = {name if "__" in name else f"spec__trainer__{name}": value for name, value in changes.items()}
    assert minimal_spec(**fields).trainer.attention == changes["attention"]


def test_a_valid_run_has_no_problems() -> None:
    assert find_problems(minimal_spec()) == ()


def test_a_document_that_no_configmap_takes_is_a_problem() -> None:
    """The API server takes the run itself, up to 1.5 MB, but gives pods at most 1 MiB in a ConfigMap."""

    def problems(lines: int) -> list[str]:
        template = "a line of a template\n" * lines
        sources = [
            {"name": f"s{n}", "jsonl": {"paths": ["a"]}, "format": {"chat": {"template": template}}} for n in range(12)
        ]
        spec = minimal_spec(spec__data={"sources": sources}, spec__objective={"finetune": {}})
        return [str(problem) for problem in find_problems(spec)]

    assert problems(2000) == []
    (problem,) = problems(3000)
    assert re.fullmatch(
        r"spec: it has 1,\d\d\d,\d\d\d bytes, 1,\d\d\d,\d\d\d of them in spec\.data, and pods get at most 1,000,000; "
        r"name files by .*",
        problem,
    )


def test_a_missing_file_and_a_file_that_is_not_yaml_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(InvalidRun, match="No such file"):
        load_run(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("spec: [")
    with pytest.raises(InvalidRun, match="not YAML"):
        load_run(tmp_path / "broken.yaml")
