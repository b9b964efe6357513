"""Described hardware: its facts agree with the hardware table, and a missing compiler is named with its extra."""

from __future__ import annotations

import os

import pytest

from halcyon.commands.programs import devices
from halcyon.commands.programs.devices import NoCompiler, devices_of, why_not
from halcyon.commands.programs.gpus import GPUS
from halcyon_api.hardware import TABLE
from halcyon_api.spec.accelerator import AcceleratorSpec


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_has_the_capability_and_about_the_memory_of_the_hardware_table(name: str) -> None:
    row, gpu = TABLE[name], GPUS[name]
    assert row.compute_capability == gpu.capability
    assert gpu.chip.memory_bytes == pytest.approx(row.memory_bytes, rel=0.08)
    assert f"core_count: {gpu.core_count}" in gpu.target_config


def test_every_gpu_of_the_hardware_table_but_any_gpu_has_facts() -> None:
    assert set(GPUS) == {row.name for row in TABLE.values() if row.extra == "cuda"} - {"nvidia"}


@pytest.mark.parametrize(("name", "extra"), [("h200", "cuda"), ("v5p", "tpu")])
def test_a_missing_compiler_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, name: str, extra: str) -> None:
    monkeypatch.setattr(devices, "_has", lambda module: False)
    topology = "1x8" if extra == "cuda" else "2x2x1"
    with pytest.raises(
        NoCompiler,
        match=rf"the compiler for {name} is in images .*={extra}, and in the extra {extra}: pip install '\.\[{extra}\]' in a checkout",
    ):
        devices_of(AcceleratorSpec(type=name, topology=topology), 1)


@pytest.mark.parametrize(
    ("name", "reason"), [("nvidia", "no facts of nvidia"), ("mi300x", "no facts of mi300x"), ("cpu", "no accelerator")]
)
def test_types_without_a_program_of_their_own_say_so(name: str, reason: str) -> None:
    assert reason in (why_not(TABLE[name]) or "")


def test_flags_of_the_environment_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=4 --xla_other=1")
    devices._add("XLA_FLAGS", ["--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false"])
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_autotune_level=4 --xla_other=1 --xla_gpu_enable_triton_gemm=false"
