"""A process finds its place in the process group: in a pod from the environment, on a laptop from the document
alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.host.errors import BadConfiguration
from halcyon.run.context import adapt_to_devices, check_context, check_memory, resolve_context
from halcyon_api.checkpoint_documents import Epoch
from halcyon_api.mesh import run_mesh
from halcyon_api.spec.mesh import ResolvedMesh
from tests.api.documents import document, minimal_spec
from tests.api.test_contract import POD


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document(**changes)))
    return path


def test_in_a_pod_the_environment_decides(tmp_path: Path) -> None:
    context = resolve_context(write(tmp_path), POD.variables())
    assert context.in_pod
    assert context.epoch == Epoch(attempt=3, restart=2)
    assert (context.process_index, context.process_count) == (5, 8)
    assert context.topology.devices == 16
    assert context.resume_step == 40
    assert context.owner.uid == "u"
    assert context.owner.namespace == "n"


def test_a_local_run_has_one_process_for_all_hosts(tmp_path: Path) -> None:
    context = resolve_context(write(tmp_path), {})
    assert not context.in_pod
    assert context.process_count == 1
    assert context.topology.devices == 4
    assert context.mesh.replica == 2


def test_another_root_replaces_the_store_settings_too(tmp_path: Path) -> None:
    path = write(tmp_path, spec__checkpoint={"root": "s3://bucket/run", "endpoint": "http://store:7070", "keep": 5})
    checkpoint = resolve_context(path, {}, checkpoint_root="file:///elsewhere").run.spec.checkpoint
    assert checkpoint.root == "file:///elsewhere"
    assert checkpoint.endpoint is None
    assert checkpoint.keep == 5


def test_another_root_completes_a_run_that_has_only_store_settings(tmp_path: Path) -> None:
    """The root of this run would come from its defaults, which are missing here."""
    path = write(tmp_path, spec__checkpoint={"endpoint": "http://store:7070", "credentialsSecret": {"name": "mine"}})
    for root in ("file:///elsewhere", "s3://bucket/run"):
        checkpoint = resolve_context(path, {}, checkpoint_root=root).run.spec.checkpoint
        assert (checkpoint.root, checkpoint.endpoint, checkpoint.credentials_secret) == (root, None, None)


@pytest.mark.parametrize(
    ("changes", "environ", "root", "sentence"),
    [
        ({}, {"HALCYON_RUN_DOCUMENT": "x"}, None, "HALCYON_ATTEMPT"),
        ({}, {}, "ftp://x/y", "file:///PATH, s3://BUCKET/PATH"),
    ],
)
def test_each_mistake_is_reported_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], environ: dict[str, str], root: str | None, sentence: str
) -> None:
    with pytest.raises(BadConfiguration) as refused:
        resolve_context(write(tmp_path, **changes), environ, checkpoint_root=root)
    assert sentence in str(refused.value)


def test_invalid_combinations_are_rejected_before_a_device_is_used(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"spec\.trainer\.batchSize.*fill \d of 8 microbatches"):
        check_context(resolve_context(write(tmp_path, spec__trainer__microbatches=8), {}))


def test_a_tpu_document_runs_locally_on_the_available_devices(tmp_path: Path) -> None:
    accelerator = {"type": "v6e", "topology": "4x4", "slices": 2}
    context = resolve_context(write(tmp_path, spec__accelerator=accelerator), {})
    assert adapt_to_devices(context, 8, "gpu").mesh.fsdp == 8
    context = resolve_context(write(tmp_path, spec__accelerator=accelerator, spec__trainer__microbatches=5), {})
    with pytest.raises(
        BadConfiguration, match=r"batchSize: 8 sequences fill 3 of 5.*\(on 3 gpu devices of this machine\)"
    ):
        adapt_to_devices(context, 3, "gpu")
    with pytest.raises(BadConfiguration, match="JAX sees 3"):
        adapt_to_devices(resolve_context(write(tmp_path), {}), 3, "cpu")


@pytest.mark.parametrize(("wanted", "extra"), [("v6e", "tpu"), ("h100", "cuda"), ("mi300x", "rocm")])
def test_a_machine_without_the_accelerator_is_used_only_if_requested(tmp_path: Path, wanted: str, extra: str) -> None:
    path = write(tmp_path, spec__accelerator={"type": wanted, "topology": "2x2" if wanted == "v6e" else "1x8"})
    with pytest.raises(
        BadConfiguration,
        match=rf"pip install '\.\[{extra}\]' in a checkout .*, or train on the processor with --device cpu",
    ):
        adapt_to_devices(resolve_context(path, {}), 1, "cpu")
    meant = resolve_context(path, {}, on_cpu=True)
    assert meant.own_devices == 1
    assert adapt_to_devices(meant, 1, "cpu").topology.devices == 1


def test_a_root_on_the_command_line_may_be_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for place, root in {
        "runs/a": f"{tmp_path}/runs/a",
        "~/runs/a": f"{tmp_path}/home/runs/a",
        "/runs/a": "/runs/a",
    }.items():
        assert resolve_context(write(tmp_path), {}, checkpoint_root=place).run.spec.checkpoint.root == f"file://{root}"


def test_the_operators_mesh_is_used_if_the_document_has_none(tmp_path: Path) -> None:
    environment = POD.model_copy(update={"slices": 2, "hosts_per_slice": 1, "devices_per_host": 2})
    placed = environment.model_copy(update={"mesh": ResolvedMesh(replica=2, data=2, fsdp=1, tensor=1)})
    assert resolve_context(write(tmp_path), placed.variables()).mesh == placed.mesh
    given = write(tmp_path, spec__mesh={"ici": {"fsdp": 1, "tensor": 2}})
    assert resolve_context(given, placed.variables()).mesh.tensor == 2


def test_an_image_without_the_accelerators_jax_is_detected(tmp_path: Path) -> None:
    environment = POD.model_copy(
        update={"slices": 1, "hosts_per_slice": 1, "devices_per_host": 1, "job_index": 0, "completion_index": 0}
    )
    path = write(tmp_path, spec__accelerator={"type": "l4", "topology": "1x1"})
    context = resolve_context(path, environment.variables())
    with pytest.raises(BadConfiguration, match=r"spec\.image: JAX sees no GPU but platform cpu .*ACCELERATOR=cuda"):
        adapt_to_devices(context, 1, "cpu")
    assert adapt_to_devices(context, 1, "gpu") is context


def test_exactly_the_fields_that_change_the_results_are_fingerprinted() -> None:
    def sections(**changes: Any) -> dict[str, str]:
        return fingerprints(minimal_spec(**changes), data={"contentSha256": "0"}).sections

    reference = sections()
    for same in (
        {"spec__accelerator__slices": 1},
        {"spec__trainer__microbatches": 2},
        {"spec__trainer__remat": "full"},
        {"spec__checkpoint__keep": 7},
    ):
        assert sections(**same) == reference
    for changed, section in (
        ({"spec__trainer__seed": 1}, "spec.trainer"),
        ({"spec__model__numHiddenLayers": 3}, "spec.model"),
        ({"spec__optimizer": {"adamw": {"beta2": 0.9}}}, "spec.optimizer"),
        ({"spec__trainer__precision": {"moments": "bfloat16"}}, "spec.trainer"),
        ({"spec__data__order": {"sequential": {}}}, "spec.data"),
    ):
        assert {name for name, value in sections(**changed).items() if value != reference[name]} == {section}


def test_an_unknown_amount_of_memory_rejects_no_run() -> None:
    spec = minimal_spec(spec__accelerator={"type": "cpu", "topology": "1x1"}, spec__trainer__batchSize=2**24)
    check_memory(spec, run_mesh(spec), None, devices=1, where="this machine")
    with pytest.raises(BadConfiguration):
        check_memory(spec, run_mesh(spec), 2**30, devices=1, where="this machine")
