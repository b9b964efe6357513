"""What a run begins with. With weights: which bits it has, and the error if they are not those of its model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import halcyon
from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.checkpoint.layout import flatten
from halcyon.host.errors import BadConfiguration, DataUnreachable, NoValidCheckpoint, RootTaken, RootUnusable
from halcyon.host.storage.failures import StoreFailure
from halcyon.run import beginning
from halcyon.run.beginning import Beginning, Kind, from_origin, kind_of, together
from halcyon.run.place import Place
from halcyon.step.program import Program, build_program
from halcyon.step.state import completed_state
from halcyon.weights.creating import import_model
from halcyon_api.checkpoint_documents import Owner
from halcyon_api.ends import ExitCode
from halcyon_api.reading import parse_run
from halcyon_api.spec.origin import OriginSpec
from halcyon_api.training_run import TrainingRunSpec
from tests.trainer.checkpoint.helpers import OneProcess
from tests.trainer.support.meshes import mesh_of
from tests.trainer.support.process_groups import run_document, start_processes
from tests.trainer.weights.folders import TOKENS, bytes_read, llama_tensors, store_of, tensors_of, write_folder

LLAMA = {"numHiddenLayers": 2, "hiddenSize": 8, "intermediateSize": 12, "numAttentionHeads": 4, "numKeyValueHeads": 2}


def spec_of(tmp_path: Path, origin: dict[str, Any], **model: Any) -> TrainingRunSpec:
    document = run_document(tmp_path / "own", sequenceLength=16)
    document["spec"] |= {"model": {"family": "llama"} | LLAMA | model, "from": origin}
    return parse_run(document).spec


TUNED = Owner(namespace="tests", name="tuned")


def begun(spec: TrainingRunSpec, tokens: int = 60, owner: Owner = TUNED) -> tuple[Beginning, Program]:
    """What a run on four devices begins with, and its program."""
    program = build_program(spec, tokens, mesh_of(fsdp=2, tensor=2))
    context: Any = SimpleNamespace(spec=spec, owner=owner)
    nowhere: Any = None
    return from_origin(Place(context, OneProcess(), nowhere), program, fingerprints(spec, data={})), program  # type: ignore[arg-type]


def origin_of(tmp_path: Path, kind: str, **config: Any) -> dict[str, Any]:
    """A folder, or a root that it was imported into, as ``spec.from``."""
    folder = write_folder(tmp_path / "model", llama_tensors(), **config)
    if kind == "folder":
        return {"huggingFace": {"path": str(folder)}}
    import_model(store_of(folder), store_of(tmp_path / "root"), owner=Owner(namespace="tests", name="base"), clock=1e9)
    return {"run": "base", "root": f"file://{tmp_path / 'root'}"}


BASE: dict[str, Any] = {"run": "base", "root": "file:///base"}
FOLDER: dict[str, Any] = {"huggingFace": {"path": "/model"}}
FIRST_STEPS: list[tuple[dict[str, Any] | None, bool, bool, Kind | str]] = [
    (None, True, False, "ownCheckpoint"),
    (BASE, True, True, "ownCheckpoint"),
    (BASE | {"only": ["blocks.*"]}, True, False, "ownCheckpoint"),
    (None, False, False, "random"),
    (FOLDER, False, False, "weights"),
    (FOLDER | {"only": ["blocks.*"]}, False, False, "weights"),
    (BASE, False, True, "weights"),
    (BASE | {"growVocabulary": True}, False, True, "weights"),
    (BASE, False, False, "otherRun"),
    (BASE | {"only": ["blocks.*"]}, False, False, r"spec\.from\.only: the checkpoint of run base is a whole training"),
    (
        BASE | {"growVocabulary": True},
        False,
        False,
        r"spec\.from\.growVocabulary: the checkpoint of run base is a whole training",
    ),
]


@pytest.mark.parametrize(("origin", "has_own", "weights_alone", "wanted"), FIRST_STEPS)
def test_a_run_begins_with_its_own_checkpoint_else_with_what_it_names_else_with_random_parameters(
    origin: dict[str, Any] | None, has_own: bool, weights_alone: bool, wanted: str
) -> None:
    parsed = None if origin is None else OriginSpec.model_validate(origin)
    if wanted in get_args(Kind):
        assert kind_of(parsed, has_own=has_own, weights_alone=weights_alone) == wanted
    else:
        with pytest.raises(BadConfiguration, match=wanted):
            kind_of(parsed, has_own=has_own, weights_alone=weights_alone)


@pytest.mark.parametrize("kind", ["folder", "root"])
def test_each_device_gets_its_part_and_the_optimizer_starts_fresh(tmp_path: Path, kind: str) -> None:
    """The tokenizer has 60 tokens, the run's vocabulary 64 rows, the files 70: the first 64 are read."""
    found, program = begun(spec_of(tmp_path, origin_of(tmp_path, kind)))
    assert (found.kind, found.step) == ("weights", 0)
    model, _ = halcyon.load(f"hf:{tmp_path / 'model'}")
    whole = {leaf.path: np.asarray(leaf.value) for leaf in flatten(model)}
    template = {leaf.path: leaf for leaf in flatten(program.template.model)}
    for leaf in flatten(found.weights.model):
        cut = tuple(slice(0, size) for size in leaf.shape)
        assert np.array_equal(np.asarray(leaf.value), whole[leaf.path][cut]), leaf.path
        assert leaf.sharding == template[leaf.path].sharding, leaf.path
    state = completed_state(program.complete_state, program.template, found.weights.model)
    assert int(state.step) == 0
    assert all(not np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(state.optimizer_state))


def test_devices_of_a_process_share_the_rows_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four devices hold columns of some tensors: each row is read once for all of them."""
    read = bytes_read(monkeypatch)
    begun(spec_of(tmp_path, origin_of(tmp_path, "folder")))
    assert sum(read) <= sum(one.nbytes for one in llama_tensors().values())


def test_rows_that_pad_the_vocabulary_are_zero_and_weights_are_rounded(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, origin_of(tmp_path, "root"))
    precision = spec.trainer.precision.model_copy(update={"parameters": "bfloat16"})
    spec = spec.model_copy(update={"trainer": spec.trainer.model_copy(update={"precision": precision})})
    found, _ = begun(spec, tokens=TOKENS)
    table = np.asarray(found.weights.model.embedding.weight.array)
    assert (table.shape[0], table.dtype) == (128, jnp.bfloat16)
    assert np.array_equal(table[:TOKENS], llama_tensors()["model.embed_tokens.weight"].astype(jnp.bfloat16))
    assert not np.any(table[TOKENS:])


@pytest.mark.parametrize("kind", ["folder", "root"])
@pytest.mark.parametrize(
    ("config", "model", "tokens", "sentence"),
    [
        ({}, {"hiddenSize": 16}, 60, "hidden_size is 8 there, and 16 by spec.model;"),
        ({"rms_norm_eps": 1e-6}, {}, 60, "rms_norm_eps is 1e-06 there"),
        ({}, {}, 71, "spec.tokenizer: it has 71 tokens, but the model in .* knows only 70"),
    ],
)
def test_another_model_or_tokenizer_is_rejected(
    tmp_path: Path, kind: str, config: dict[str, Any], model: dict[str, Any], tokens: int, sentence: str
) -> None:
    with pytest.raises(BadConfiguration, match=sentence):
        begun(spec_of(tmp_path, origin_of(tmp_path, kind, **config), **model), tokens)


def test_a_hub_that_fails_on_one_process_ends_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 0 has the model; process 1 cannot download it."""
    gathered: list[str] = []

    def gather(_: object, text: str) -> list[str]:
        gathered.append(text)
        return [text, "DataUnreachable hf://owner/tiny could not be downloaded"]

    monkeypatch.setattr(beginning, "gather_texts", gather)
    with pytest.raises(DataUnreachable, match=r"^hf://owner/tiny could not be downloaded$"):
        begun(spec_of(tmp_path, origin_of(tmp_path, "folder")))
    assert gathered == [""]


def test_a_store_without_the_bucket_is_named_with_its_field() -> None:
    def fail() -> None:
        raise StoreFailure("NOT_FOUND", "no such bucket")

    with pytest.raises(
        RootUnusable, match=r"^the folder s3://none/base does not exist; create the bucket, or correct spec.from \("
    ):
        together(OneProcess(), "s3://none/base", fail)


def test_a_damaged_import_and_the_root_of_another_run_are_rejected(tmp_path: Path) -> None:
    origin = origin_of(tmp_path, "root")
    with pytest.raises(RootTaken, match="is of run tests/base, not of tests/other"):
        begun(spec_of(tmp_path, origin | {"run": "other"}))
    data = next(path for path in (tmp_path / "root").rglob("c/**/*") if path.is_file())
    data.write_bytes(data.read_bytes()[:-1] + b"\1")
    with pytest.raises(NoValidCheckpoint, match="does not have the hash that the manifest names"):
        begun(spec_of(tmp_path, origin))


@pytest.mark.slow
def test_a_run_trains_imported_weights_and_its_export_is_loaded_again(tmp_path: Path) -> None:
    """From the files and from an import: the same losses. The run commits step 0, and later needs neither."""
    document = run_document(tmp_path / "first", slices=1, steps=6, sequenceLength=16)
    document["spec"] |= {"model": {"family": "llama"} | LLAMA, "tokenizer": {"byte": {}}}
    document["spec"]["checkpoint"]["keep"] = 4
    tensors = llama_tensors()
    random = np.random.default_rng(5)
    tensors |= {
        name: random.standard_normal((259, 8)).astype(np.float32)
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    folder = write_folder(tmp_path / "model", tensors, vocab_size=259)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    import_model(store_of(folder), store_of(tmp_path / "base"), owner=Owner(namespace="tests", name="base"), clock=1e9)
    losses: list[dict[int, float]] = []
    for name, origin in (
        ("first", {"huggingFace": {"path": str(folder)}}),
        ("second", {"run": "base", "root": f"file://{tmp_path / 'base'}"}),
    ):
        spec = document["spec"] | {
            "from": origin,
            "checkpoint": document["spec"]["checkpoint"] | {"root": f"file://{tmp_path / name}"},
        }
        group = start_processes(document | {"spec": spec}, tmp_path / f"log-{name}")
        assert set(group.wait()) == {ExitCode.DONE}, group.leader.noise[-20:]
        losses.append(group.leader.losses())
    assert sorted(losses[0]) == [1, 2, 3, 4, 5, 6]
    assert losses[0] == losses[1]
    head = json.loads((tmp_path / "first" / "HEAD").read_text())
    assert head["committed"][-1]["step"] == 0

    begun, tokenizer = halcyon.load(f"{tmp_path / 'first'}@0")
    assert np.array_equal(np.asarray(begun.head.array).T, tensors["lm_head.weight"])
    assert tokenizer is not None
    assert tokenizer.vocab_size == 259
    from typer.testing import CliRunner

    from halcyon.commands.main import app

    done = CliRunner().invoke(app, ["export", "hf", str(tmp_path / "second"), str(tmp_path / "out")])
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert tensors_of(tmp_path / "out").keys() == tensors.keys()
    trained, _ = halcyon.load(f"hf:{tmp_path / 'out'}")
    again, _ = halcyon.load(str(tmp_path / "first"))
    tokens = [tokenizer.encode("three times four").tolist()]
    assert np.array_equal(np.asarray(halcyon.logits(trained, tokens)), np.asarray(halcyon.logits(again, tokens)))
