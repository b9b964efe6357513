"""`microbatches: auto` and `remat: auto`: the least of both that fits, once for a run."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.errors import BadConfiguration
from halcyon.run import fitting
from halcyon.run.fitting import (
    Choice,
    choice_key,
    choose,
    chosen,
    is_automatic,
    keep_choice,
    least_fitting,
    read_choice,
    traced_step,
    with_choice,
    without_choice,
)
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import Owner, canonical_json
from halcyon_api.mesh import run_mesh
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.spec.trainer import AUTOMATIC_OFFLOAD, AUTOMATIC_REMAT
from halcyon_api.training_run import TrainingRunSpec, parse_run
from tests.api.documents import document
from tests.trainer.support.meshes import mesh_of
from tests.trainer.support.process_groups import run_document

VOCABULARY, ROWS, LENGTH = 64, 16, 32
POSSIBLE = (1, 2, 4, 8)
OWNER = Owner(namespace="tests", name="small")


def spec_of(
    *, microbatches: Any = "auto", remat: str = "auto", offload: str = "none", **changes: Any
) -> TrainingRunSpec:
    run = document(
        spec__accelerator={"type": "cpu", "topology": "1x2", "slices": 1},
        spec__model__llama__layers=8,
        spec__trainer={
            "steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH, "microbatches": microbatches, "remat": remat,
            "offload": offload,
        },
        **changes,
    )  # fmt: skip
    return parse_run(run).spec


@pytest.mark.parametrize("least", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_the_search_finds_the_first_that_fits_and_asks_for_few(least: int) -> None:
    asked: list[int] = []

    def fits(candidate: int) -> bool:
        asked.append(candidate)
        return candidate >= least

    assert least_fitting(range(1, 9), fits) == (least if least < 9 else None)
    assert len(asked) <= 5
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize(
    ("bytes_of", "choice"),
    [
        ({"none": 4, "dots": 3, "attention": 2, "full": 1}, Choice(1, "none")),
        ({"none": 40, "dots": 3, "attention": 2, "full": 1}, Choice(8, "none")),
        ({"none": 400, "dots": 15, "attention": 2, "full": 1}, Choice(2, "dots")),
        ({"none": 400, "dots": 300, "attention": 200, "full": 30}, Choice(4, "full")),
        ({"none": 400, "dots": 300, "attention": 200, "full": 100}, None),
    ],
)
def test_more_microbatches_come_before_more_recomputation(bytes_of: dict[str, int], choice: Choice | None) -> None:
    assert (
        choose(POSSIBLE, AUTOMATIC_REMAT, ("none",), lambda one: bytes_of[one.remat] / one.microbatches <= 8) == choice
    )


@pytest.mark.parametrize(
    ("state", "choice"),
    [(0, Choice(8, "none")), (4, Choice(8, "dots")), (7, Choice(8, "none", "optimizer")), (9, None)],
)
def test_the_memory_of_the_host_comes_last(state: int, choice: Choice | None) -> None:
    """Here a step needs 40 or 20 bytes by microbatches, and a state that may be in the host's memory but for 2 bytes of
    it.
    """

    def fits(one: Choice) -> bool:
        held = state if one.offload == "none" else max(0, state - 6)
        return held + {"none": 40, "dots": 20}[one.remat] / one.microbatches <= 7 and state < 9

    assert choose(POSSIBLE, ("none", "dots"), AUTOMATIC_OFFLOAD, fits) == choice


def test_an_automatic_offload_is_replaced_also_by_none() -> None:
    assert with_choice(spec_of(offload="auto"), Choice(2, "dots")).trainer.offload == "none"
    assert Choice.of(Choice(2, "dots", "optimizer").document()) == Choice(2, "dots", "optimizer")
    assert Choice(2, "dots").document() == {"microbatches": 2, "remat": "dots"}


@pytest.mark.slow
def test_a_run_takes_the_least_microbatches_whose_step_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, mesh = spec_of(remat="none"), mesh_of(fsdp=2)

    @functools.cache
    def needs(count: int) -> float:
        traced = traced_step(with_choice(spec, Choice(count, "none")), VOCABULARY, mesh)
        found = traced.compiled()
        assert found is not None
        assert found.needed_bytes is not None
        assert 0 < traced.least_bytes < found.needed_bytes
        return found.needed_bytes

    assert needs(1) > needs(2)

    def known(tried: TrainingRunSpec, *_: Any) -> Any:  # compiles each step once
        step = SimpleNamespace(needed_bytes=needs(tried.trainer.microbatches))
        return SimpleNamespace(least_bytes=0, compiled=lambda: step)

    monkeypatch.setattr(fitting, "traced_step", known)
    between = int((needs(1) + needs(2)) / 2 / 0.92)
    steps: dict[Choice, Any] = {}
    assert chosen(spec, VOCABULARY, mesh, between, steps=steps) == Choice(2, "none")
    assert [(choice.microbatches, step.needed_bytes) for choice, step in steps.items()] == [(2, needs(2))]
    assert chosen(spec, VOCABULARY, mesh, 100 * between) == Choice(1, "none")


def test_a_run_that_fits_nowhere_is_rejected_with_its_need() -> None:
    sentence = (
        r"^spec.trainer.microbatches: a step with 4 microbatches and remat full needs at least ([\d.]+ .B), "
        r"and it may use 920 bytes of the 1.0 kB of a device: [\d.]+ .B are missing; give"
    )
    with pytest.raises(BadConfiguration, match=sentence):
        chosen(spec_of(microbatches=4, remat="full"), VOCABULARY, mesh_of(fsdp=2), 1000)


def test_a_device_of_unknown_memory_gets_one_microbatch_and_no_recomputation() -> None:
    assert chosen(spec_of(), VOCABULARY, mesh_of(fsdp=2), None) == Choice(1, "none")
    assert chosen(spec_of(microbatches=4), VOCABULARY, mesh_of(fsdp=2), None) == Choice(4, "none")


def test_the_choice_fills_only_automatic_fields() -> None:
    assert is_automatic(spec_of())
    assert not is_automatic(spec_of(microbatches=2, remat="dots"))
    both = with_choice(spec_of(), Choice(4, "full"))
    assert (both.trainer.microbatches, both.trainer.remat) == (4, "full")
    one = with_choice(spec_of(microbatches=2), Choice(4, "full"))
    assert (one.trainer.microbatches, one.trainer.remat) == (2, "full")
    alone = without_choice(spec_of(), run_mesh(spec_of()))
    assert (alone.trainer.microbatches, alone.trainer.remat) == (ROWS // 2, "none")


def test_the_choice_is_no_part_of_the_fingerprints() -> None:
    assert fingerprints(spec_of(), data={}) == fingerprints(with_choice(spec_of(), Choice(4, "full")), data={})


def test_a_recorded_choice_is_never_replaced(tmp_path: Path) -> None:
    spec, store = spec_of(), Store(CheckpointSpec(root=f"file://{tmp_path}/root"))
    key = choice_key(spec, run_mesh(spec), OWNER)
    assert read_choice(store, key) is None
    assert keep_choice(store, key, Choice(4, "dots"))
    assert not keep_choice(store, key, Choice(1, "none"))
    assert read_choice(store, key) == Choice(4, "dots")
    store.write(key, b"{}")
    with pytest.raises(BadConfiguration, match="is damaged"):
        read_choice(store, key)


def test_a_choice_is_for_one_run_on_one_mesh() -> None:
    spec = spec_of()
    mesh = run_mesh(spec)
    keys = {
        choice_key(spec, mesh, OWNER),
        choice_key(spec, mesh, Owner(namespace="tests", name="other")),
        choice_key(spec, mesh.model_copy(update={"replica": 2}), OWNER),
        choice_key(spec_of(microbatches=2), mesh, OWNER),
        choice_key(spec_of(spec__trainer__attention="blockwise"), mesh, OWNER),
    }
    assert len(keys) == 5
    longer = spec.model_copy(update={"trainer": spec.trainer.model_copy(update={"steps": 20, "log_every_steps": 5})})
    assert choice_key(longer, mesh, OWNER) in keys


def test_a_key_has_no_defaults_so_a_version_with_further_fields_finds_the_choice(tmp_path: Path) -> None:
    document = run_document(tmp_path / "root", microbatches="auto", remat="auto")
    run, mesh = parse_run(document), ResolvedMesh(replica=1, data=1, fsdp=2, tensor=1)
    given = {
        "owner": ["tests", "tiny"],
        "mesh": {"replica": 1, "data": 1, "fsdp": 2, "tensor": 1},
        "accelerator": "cpu",
        "model": document["spec"]["model"],
        "trainer": {"batchSize": 8, "sequenceLength": 64, "microbatches": "auto", "remat": "auto"},
    }
    expected = hashlib.sha256(canonical_json(given)).hexdigest()[:32]
    assert choice_key(run.spec, mesh, Owner(namespace="tests", name="tiny")) == f"choices/{expected}.json"
