"""The key of a recorded choice of automatic values."""

from __future__ import annotations

import hashlib
from pathlib import Path

from halcyon.run.fitting import choice_key
from halcyon_api.checkpoint_documents import Owner, canonical_json
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.training_run import parse_run
from tests.trainer.support.process_groups import run_document


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
