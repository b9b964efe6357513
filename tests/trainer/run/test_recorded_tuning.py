"""The automatic values of a run are recorded once, under a key of the run and its mesh."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.run.auto_tuning import Choice
from halcyon.run.recorded_tuning import choice_key, keep_choice, read_choice
from halcyon_api.checkpoint_documents import Owner, canonical_json
from halcyon_api.mesh import run_mesh
from halcyon_api.reading import parse_run
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.mesh import ResolvedMesh
from tests.trainer.run.test_auto_tuning import spec_of
from tests.trainer.support.process_groups import run_document

OWNER = Owner(namespace="tests", name="small")


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
