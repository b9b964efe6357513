"""A run that cannot fit into memory is rejected with the memory it needs and the memory there is; any run that may fit
is accepted.
"""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api.hardware.machines import pod_memory_gib
from halcyon_api.memory import host_memory_problem, least_need, memory_problem, offloaded_bytes
from halcyon_api.mesh import model_shape, run_mesh
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.api.documents import minimal_spec
from tests.families import llama

GIB = 2**30
SEVEN = llama(32, 4096, 11008, 32)
BASE: dict[str, Any] = {"spec__from": {"huggingFace": {"path": "/base"}}}
PAIRS: dict[str, Any] = {
    "spec__data__sources": [{"name": "pairs", "jsonl": {"paths": ["/data/pairs.jsonl"]}, "format": {"preference": {}}}],
    **BASE,
}
PROMPTS: dict[str, Any] = {
    "spec__data__sources": [{"name": "sums", "jsonl": {"paths": ["/data/sums.jsonl"]}, "format": {"prompt": {}}}],
    **BASE,
}


def spec_of(**changes: Any) -> TrainingRunSpec:
    return minimal_spec(**{"spec__accelerator": {"type": "cpu", "topology": "1x1"}, **changes})


def bytes_each(spec: TrainingRunSpec) -> float:
    """Bytes of the state for each parameter of the model."""
    return least_need(spec, run_mesh(spec)).state_bytes / model_shape(spec).parameters


def problem(spec: TrainingRunSpec, available_bytes: int) -> str:
    found = memory_problem(spec, run_mesh(spec), available_bytes, devices=1, where="this machine")
    return ": ".join(found) if found is not None else ""


def optimizer(**rule: Any) -> dict[str, Any]:
    return {"spec__optimizer": rule}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 16),
        (optimizer(lion={}), 12),
        (optimizer(muonAdamw={}), 12),
        (optimizer(adafactor={}), 8),
        (optimizer(mars={}), 20),
        (optimizer(adamw={}, groups=[{"roles": ["embedding"], "rule": "lion"}]), 12),
        (optimizer(adamw={}, groups=[{"roles": ["embedding"], "frozen": True}]), 4),
        ({"spec__trainer__precision": {"parameters": "bfloat16"}}, 12),
        ({"spec__trainer__precision": {"parameters": "bfloat16", "moments": "bfloat16"}}, 8),
        ({"spec__trainer__precision": {"parameters": "bfloat16", "moments": "float8"}}, 6),
        ({"spec__average": {"ema": {"decay": 0.99}}}, 20),
        ({"spec__adapter": {"lora": {}}, **BASE}, 4),
        ({"spec__adapter": {"lora": {}}, "spec__average": {"ema": {"decay": 0.99}}, **BASE}, 8),
        ({"spec__objective": {"preference": {"simpo": {}}}, **PAIRS}, 16),
        ({"spec__objective": {"preference": {"dpo": {}}}, **PAIRS}, 20),
        ({"spec__objective": {"preference": {"dpo": {}}}, "spec__adapter": {"lora": {}}, **PAIRS}, 4),
        (
            {
                "spec__objective": {"policy": {"reward": "gsm8k", "updatesPerRollout": 2, "beta": 0.1, "maxTokens": 8}},
                **PROMPTS,
            },
            24,
        ),
        (
            {
                "spec__objective": {
                    "policy": {"reward": "gsm8k", "maxTokens": 8, "delaySteps": 1, "sampledBy": "samplers"}
                },
                "spec__task": "sample",
                **PROMPTS,
            },
            4,
        ),
        (
            {
                "spec__objective": {"policy": {"reward": "gsm8k", "updatesPerRollout": 2, "beta": 0.1, "maxTokens": 8}},
                "spec__adapter": {"lora": {}},
                **PROMPTS,
            },
            4,
        ),
    ],
    ids=str,
)
def test_each_state_needs_its_own_bytes_a_parameter(changes: dict[str, Any], expected: int) -> None:
    """Parameters and gradients, 4 bytes each, and what this update rule, average or objective keeps."""
    assert bytes_each(spec_of(**changes)) == expected


def test_a_model_of_seven_billion() -> None:
    seven = spec_of(spec__model=SEVEN)
    assert least_need(seven, run_mesh(seven)).state_bytes == pytest.approx(16 * 6.5e9, rel=0.02)
    words = (
        "spec.model: parameters, gradients and optimizer state take 103.8 GB at least, and this machine has "
        "17.2 GB: 86.6 GB are missing; "
    )
    assert problem(seven, 16 * GIB) == f"{words}choose a smaller model, or a topology with more memory"
    assert not problem(seven, 1024 * GIB)


def test_the_update_rule_decides_whether_a_model_fits() -> None:
    """1.7 billion parameters take 28 GB with AdamW, 21 GB with Lion, which keeps one moment, and 14 GB with Adafactor,
    which keeps none.
    """
    model = llama(32, 2048, 6144, 16)
    adamw, lion, adafactor = (
        spec_of(spec__model=model, **optimizer(**{rule: {}})) for rule in ("adamw", "lion", "adafactor")
    )
    assert [round(least_need(spec, run_mesh(spec)).state_bytes / 1e9) for spec in (adamw, lion, adafactor)] == [
        28,
        21,
        14,
    ]
    assert [not problem(spec, 24 * 10**9) for spec in (adamw, lion, adafactor)] == [False, True, True]
    assert [not problem(spec, 16 * 10**9) for spec in (adamw, lion, adafactor)] == [False, False, True]


def test_the_operator_and_the_trainer_have_one_bound() -> None:
    """A model of 5 billion parameters on one v6e of 32 GB: Adafactor's state does not fit, on two devices it does."""
    one = spec_of(spec__model=SEVEN, spec__accelerator={"type": "v6e", "topology": "1x1"}, **optimizer(adafactor={}))
    available = one.accelerator.row.memory_bytes
    assert available is not None
    (found,) = find_problems(one)
    assert (found.field, found.message) == memory_problem(one, run_mesh(one), available, devices=1, where="each device")
    assert not find_problems(
        spec_of(spec__model=SEVEN, spec__accelerator={"type": "v6e", "topology": "2x2"}, **optimizer(adafactor={}))
    )
    divided = {"spec__accelerator": {"type": "v6e", "topology": "2x2"}, "spec__mesh": {"ici": {"data": 4, "fsdp": 1}}}
    (found,) = find_problems(spec_of(spec__model=SEVEN, **divided, **optimizer(adafactor={})))
    assert found.message.endswith("choose a smaller model, or a larger fsdp axis of the mesh")


def test_a_vocabulary_that_only_a_file_says_rejects_no_run() -> None:
    """The embeddings count with the smallest vocabulary, not with the one that is assumed for a mesh."""
    wide = llama(1, 8192, 8192, 64)
    from_file, of_bytes = (
        spec_of(spec__model=wide, **more) for more in ({"spec__tokenizer": {"tokenizerJson": {"path": "/t.json"}}}, {})
    )
    assert least_need(from_file, run_mesh(from_file)).state_bytes < least_need(of_bytes, run_mesh(of_bytes)).state_bytes
    assert not problem(from_file, 8 * GIB)


def test_a_batch_counts_by_its_part_on_one_device_at_a_time() -> None:
    huge: dict[str, Any] = {"spec__trainer__batchSize": 2**24}
    assert problem(spec_of(**huge), GIB).startswith("spec.trainer.batchSize: a batch takes ")
    assert problem(spec_of(**huge), GIB).endswith("give a smaller batchSize, or more microbatches")
    assert not problem(spec_of(**huge, spec__trainer__microbatches=2**16), GIB)
    assert not problem(spec_of(), GIB)
    later = spec_of(spec__trainer__batchSchedule=[{"fromStep": 5, "batchSize": 2**24}])
    assert problem(later, GIB).startswith("spec.trainer.batchSize")


def test_devices_of_a_processor_share_its_memory() -> None:
    spec = spec_of(spec__accelerator={"type": "cpu", "topology": "1x4"})
    need = least_need(spec, run_mesh(spec)).total_bytes
    assert memory_problem(spec, run_mesh(spec), 3 * need, devices=4, where="this machine") is not None
    assert memory_problem(spec, run_mesh(spec), 4 * need, devices=4, where="this machine") is None


OFFLOADED = {"spec__trainer__offload": "optimizer"}


def test_an_offloaded_state_counts_for_the_host_and_not_for_the_device() -> None:
    plain, average = spec_of(), {"spec__average": {"ema": {"decay": 0.99}}}
    for changes, bytes_on_host in ((OFFLOADED, 8), (OFFLOADED | average, 12)):
        spec = spec_of(**changes)
        assert bytes_each(spec) == pytest.approx(8, rel=0.01)
        assert offloaded_bytes(spec, run_mesh(spec)) == pytest.approx(
            bytes_on_host * model_shape(spec).parameters, rel=0.01
        )
    assert offloaded_bytes(plain, run_mesh(plain)) == 0


def test_a_pod_requests_twice_the_offloaded_state_of_its_devices() -> None:
    """A save copies the state."""
    accelerator = spec_of(spec__accelerator={"type": "cpu", "topology": "1x4"}).accelerator
    shape = accelerator.row.shape(accelerator.topology)
    assert shape is not None
    further = pod_memory_gib(accelerator.row, shape, 3 * GIB) - pod_memory_gib(accelerator.row, shape)
    assert further == 6 * shape.devices_per_host


def test_a_host_that_is_too_small_for_the_state_is_rejected() -> None:
    large = llama(80, 8192, 28672, 64)
    v5e = {"type": "v5e", "topology": "2x2"}
    spec = spec_of(spec__accelerator=v5e, spec__model=large, **OFFLOADED)
    found = host_memory_problem(spec, run_mesh(spec))
    assert found is not None
    assert found[0] == "spec.trainer.offload"
    assert "choose none" in found[1]
    small = spec_of(spec__accelerator=v5e, **OFFLOADED)
    assert host_memory_problem(small, run_mesh(small)) is None
