"""Compiled programs are shared through the root. A damaged one, or one that storage would change, is not used."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from halcyon.host.storage.store import Store
from halcyon.step import compilation
from halcyon.step.compilation import CompilationCache, compiler_options, keeps_collectives_in_order, program_key
from halcyon_api.ends import ExitCode
from halcyon_api.hardware.compiler import options_of
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes

LAYERS = 3


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(CheckpointSpec(root=f"file://{tmp_path}/root"))


def test_another_process_finds_a_compiled_program(tmp_path: Path, store: Store) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "jit_step-1234-cache").write_bytes(b"program")
    (first / "jit_step-1234-atime").write_bytes(b"12")
    assert CompilationCache(first, store, "p").publish() == 1
    assert CompilationCache(first, store, "p").publish() == 0
    assert CompilationCache(second, store, "p").fetch() == 1
    assert (second / "jit_step-1234-cache").read_bytes() == b"program"
    assert CompilationCache(second, store, "p").fetch() == 0


def test_another_program_fetches_nothing(tmp_path: Path, store: Store) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (first / "a-cache").write_bytes(b"program")
    CompilationCache(first, store, "p").publish()
    assert CompilationCache(tmp_path / "second", store, "q").fetch() == 0


def test_a_damaged_entry_is_passed_over(tmp_path: Path, store: Store) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (first / "a-cache").write_bytes(b"program")
    CompilationCache(first, store, "p").publish()
    stored = next((tmp_path / "root/compilation/p").glob("a-cache.*"))
    stored.write_bytes(b"progrbm")
    assert CompilationCache(tmp_path / "second", store, "p").fetch() == 0
    assert not list((tmp_path / "second").glob("*-cache"))


def test_a_program_is_named_by_all_it_depends_on() -> None:
    assert program_key({"mesh": 1}) == program_key({"mesh": 1})
    assert program_key({"mesh": 1}) != program_key({"mesh": 2})


def test_fast_leaves_out_only_the_option_of_gpus_that_costs_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform in ("cpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        assert compiler_options("fast") == compiler_options("bitwise")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler_options("bitwise") == compiler_options("fast") | {"xla_gpu_exclude_nondeterministic_ops": True}
    assert compiler_options(runs_once=True)["xla_gpu_exclude_nondeterministic_ops"], (
        "the state before the first step never differs"
    )


def mesh_of(device: Any, count: int) -> Any:
    return SimpleNamespace(devices=np.array([device] * count), size=count)


@pytest.mark.parametrize(
    ("capability", "version", "pipelined"),
    [("9.0", (0, 12, 0), True), ("9.0", (0, 11, 2), False), ("8.0", (0, 12, 0), False)],
)
def test_gpus_whose_compiler_has_the_options_send_for_one_block_during_the_next(
    monkeypatch: pytest.MonkeyPatch, capability: str, version: tuple[int, ...], pipelined: bool
) -> None:
    monkeypatch.setattr(jax, "__version_info__", version)
    gpu = SimpleNamespace(platform="gpu", device_kind="NVIDIA H200", compute_capability=capability)
    assert compilation.pipelines_blocks(mesh_of(gpu, 8)) == pipelined
    assert not compilation.pipelines_blocks(mesh_of(gpu, 1))


def test_a_program_has_the_options_of_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def options(device: Any, count: int, unroll: int = 1) -> dict[str, Any]:
        return compiler_options("fast", mesh=mesh_of(device, count), unroll=unroll)

    v6e = SimpleNamespace(platform="tpu", device_kind="TPU v6 lite")
    h200 = SimpleNamespace(platform="gpu", device_kind="NVIDIA H200", compute_capability="9.0")
    assert options(v6e, 1) == options_of("v6e", devices=1, jax=jax.__version_info__)
    assert options(h200, 8) == options_of("cc9", devices=8, jax=jax.__version_info__)
    assert options(h200, 8, unroll=2) == options_of("cc9", devices=8, jax=jax.__version_info__, unroll=2)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=65536")
    assert "xla_tpu_scoped_vmem_limit_kib" not in options(v6e, 1), "the user's flag"


def test_no_flag_of_the_user_changes_the_determinism(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_exclude_nondeterministic_ops=false")
    assert compiler_options("bitwise")["xla_gpu_exclude_nondeterministic_ops"]


@functools.cache
def compiled(*, written_out: bool) -> jax.stages.Compiled:
    """Layers whose weights are gathered before their use, in a loop or unrolled."""
    mesh = jax.make_mesh((len(jax.devices()),), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    weights = jax.ShapeDtypeStruct(
        (LAYERS, 64, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(None, None, "fsdp"))
    )
    rows = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))

    def layer(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
        return jax.lax.with_sharding_constraint(jnp.tanh(x @ weight), rows.sharding), None

    def run(x: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(jax.lax.scan(layer, x, weights, unroll=written_out)[0])

    return jax.jit(run).lower(rows, weights).compile(compiler_options=compiler_options())


def test_collectives_in_a_loop_lose_their_order_in_storage() -> None:
    written_out, loop = compiled(written_out=True).as_text() or "", compiled(written_out=False).as_text() or ""
    assert written_out.count(" all-gather(") + written_out.count(" all-reduce(") > LAYERS
    assert keeps_collectives_in_order(written_out)
    assert " while(" in loop
    assert not keeps_collectives_in_order(loop)


def test_process_groups_on_cpu_keep_only_programs_that_storage_does_not_change(tmp_path: Path, store: Store) -> None:
    def published(*shown: tuple[str, bool]) -> int:
        cache = CompilationCache(tmp_path / "local", store, f"p{len(shown)}", selective=True)
        cache.directory.mkdir(parents=True)
        for module in ("jit_step", "jit_other"):
            (cache.directory / f"{module}-12ab-cache").write_bytes(b"program")
        for module, written_out in shown:
            cache.compiled(module, compiled(written_out=written_out))
        count = cache.publish()
        cache.close()
        assert not cache.directory.exists()
        return count

    assert published() == 0
    assert published(("jit_step", True)) == 1
    assert published(("jit_step", True), ("jit_step", False)) == 0
    assert published(("jit_step", True), ("jit_other", False), ("jit_third", True)) == 1


def train(document: dict[str, Any], directory: Path, **options: Any) -> TrainerProcesses:
    group = start_processes(
        document, directory, module="tests.trainer.support.cache_child", share_programs=False, **options
    )
    assert group.wait() == [ExitCode.DONE] * len(group.processes)
    return group


def cached(group: TrainerProcesses) -> list[int]:
    """Number of programs that each process loaded from its cache."""
    return [process.noise.count("cache_hits\n") for process in group.processes]


def moved(document: dict[str, Any], root: Path) -> dict[str, Any]:
    """The document with another root."""
    return document | {
        "spec": document["spec"] | {"checkpoint": document["spec"]["checkpoint"] | {"root": f"file://{root}"}}
    }


@pytest.mark.slow
@pytest.mark.parametrize("steps", [30, pytest.param(100, marks=pytest.mark.variant)])
def test_a_restarted_run_of_several_processes_reads_its_program_back_and_computes_the_same(
    tmp_path: Path, steps: int
) -> None:
    """Takes many steps, because a lost order of collectives changes the result only rarely."""
    document = run_document(tmp_path / "first", topology="1x2", steps=steps)
    document["spec"]["checkpoint"]["save"] = {"everySteps": steps // 2}
    first = train(document, tmp_path / "one")
    assert cached(first) == [0, 0]
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "compilation").rename(tmp_path / "second" / "compilation")
    second = train(moved(document, tmp_path / "second"), tmp_path / "two")
    assert cached(second) == [1, 1]
    assert first.leader.losses() == second.leader.losses()
    assert len(first.leader.losses()) == steps


@pytest.mark.slow
@pytest.mark.variant
def test_a_loop_over_many_layers_is_compiled_by_every_start(tmp_path: Path) -> None:
    document = run_document(tmp_path / "root", topology="1x2", steps=5)
    document["spec"]["model"]["numHiddenLayers"] = 9
    assert cached(train(document, tmp_path / "run")) == [0, 0]
    assert not list((tmp_path / "root").glob("compilation/*/*"))


@pytest.mark.slow
@pytest.mark.variant
def test_a_restarted_run_of_one_process_reads_its_programs_back(tmp_path: Path) -> None:
    document = run_document(tmp_path / "first", slices=1, steps=20)
    first = train(document, tmp_path / "one")
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "compilation").rename(tmp_path / "second" / "compilation")
    second = start_processes(
        moved(document, tmp_path / "second"),
        tmp_path / "elsewhere" / "two",
        module="tests.trainer.support.cache_child",
        share_programs=False,
    )  # another, empty local directory
    assert second.wait() == [ExitCode.DONE]
    assert cached(second)[0] >= 2, "the programs of the initial state and of the step"
    assert first.leader.losses() == second.leader.losses()
