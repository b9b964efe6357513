"""The step for a GPU is traced without a GPU and without its compiler."""

from __future__ import annotations

import dataclasses
import re

import jax
import pytest
from jax._src.pallas.triton import gpu_info

from halcyon.commands.programs.devices import described
from halcyon.commands.programs.gpus import GPUS
from halcyon.models.parts.attention_choice import Target
from halcyon.parallel.device_mesh import build_mesh
from halcyon.step.program import build_program
from halcyon_api.reading import parse_run
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.training_run import TrainingRunSpec
from tests.api.documents import document, minimal_spec
from tests.families import llama

LENGTH = 1024


LLAMA = llama(2, 256, 256, 4, numKeyValueHeads=2, headDim=64)


def spec() -> TrainingRunSpec:
    trainer = {
        "steps": 10,
        "batchSize": 1,
        "sequenceLength": LENGTH,
        "remat": "attention",
        "precision": {"compute": "bfloat16"},
    }
    return minimal_spec(spec__model=LLAMA, spec__trainer=trainer)


def lowered(kind: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The step as StableHLO, for one GPU of a kind."""
    gpu = GPUS[kind]
    # Inside a mesh of this machine's devices, Pallas would see those.
    monkeypatch.setattr(gpu_info, "get_device_kind", lambda: gpu.device_kind)
    mesh = build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, tensor=1), jax.devices()[:1])
    with described(gpu):
        program = dataclasses.replace(build_program(spec(), 512, mesh), target=Target.of(gpu))
        return program.lower_step(1, LENGTH, platform="cuda").as_text()


@pytest.mark.parametrize("kind", ["h200", "b200"])
def test_the_step_for_a_gpu_has_the_kernels_of_attention_by_default(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents are apart.

    The loop over layers has one forward kernel, and two in the backward pass; remat keeps the forward's result. The
    gradient of the embedding has a kernel too, and no scatter.
    """
    program = lowered(kind, monkeypatch)
    assert len(re.findall(r"custom_call @mosaic_gpu_v2\b", program)) == 3
    assert len(re.findall(r"custom_call @__gpu\$xla\.gpu\.triton\b", program)) == 1
    assert "stablehlo.scatter" not in program


def test_a_step_for_tpus_with_microbatches_has_the_kernels_of_attention() -> None:
    """Each group of devices computes its microbatches alone; JAX rejects a TPU's kernel there while it may partition
    it.
    """
    sizes = {"batchSize": 8, "microbatches": 2, "sequenceLength": LENGTH, "precision": {"compute": "bfloat16"}}
    run = parse_run(document(spec__model=LLAMA | {"headDim": 128}, spec__trainer={"steps": 10, **sizes}))
    mesh = build_mesh(ResolvedMesh(replica=1, data=4, fsdp=1, tensor=1), jax.devices()[:4])
    program = dataclasses.replace(build_program(run.spec, 512, mesh), target=Target("tpu"))
    assert program.lower_step(8, LENGTH, platform="tpu").as_text().count("tpu_custom_call") >= 3


def test_code_that_asks_for_the_hardware_sees_the_described_one_only_inside() -> None:
    from jax.extend import backend

    before = jax.default_backend(), backend.get_default_device()
    with described(GPUS["b200"]):
        assert (jax.default_backend(), backend.get_default_device().device_kind) == ("gpu", "NVIDIA B200")
        assert jax.sharding.get_abstract_mesh().abstract_device.device_kind == "NVIDIA B200"
        assert Target.of(backend.get_default_device()) == Target("gpu", (10, 0))
    assert (jax.default_backend(), backend.get_default_device()) == before
