"""A run that begins with weights: which bits it has, and the error if they are not those of its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import halcyon
from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.checkpoint.layout import flatten
from halcyon.errors import BadConfiguration, DataUnreachable, NoValidCheckpoint, RootTaken, RootUnusable
from halcyon.huggingface import beginning
from halcyon.huggingface.beginning import Begun, _together, begin, require_same
from halcyon.huggingface.importing import import_model
from halcyon.storage.failures import StoreFailure
from halcyon.training.program import Program, build_program
from halcyon.training.state import completed_state
from halcyon_api.checkpoint_documents import Owner
from halcyon_api.ends import ExitCode
from halcyon_api.spec.families.mixtral import MixtralSpec
from halcyon_api.spec.families.qwen import Qwen3Spec
from halcyon_api.spec.families.qwen_moe import Qwen3MoeSpec
from halcyon_api.spec.model import ModelSpec
from halcyon_api.training_run import TrainingRunSpec, parse_run
from tests.trainer.checkpoint.helpers import OneProcess
from tests.trainer.huggingface.folders import TOKENS, bytes_read, llama_tensors, store_of, tensors_of, write_folder
from tests.trainer.meshes import mesh_of
from tests.trainer.process_groups import run_document, start_processes

LLAMA = {"layers": 2, "hiddenSize": 8, "intermediateSize": 12, "heads": 4, "kvHeads": 2}


def spec_of(tmp_path: Path, origin: dict[str, Any], **model: Any) -> TrainingRunSpec:
    document = run_document(tmp_path / "own", sequenceLength=16)
    document["spec"] |= {"model": {"llama": LLAMA | model}, "from": origin}
    return parse_run(document).spec


TUNED = Owner(namespace="tests", name="tuned")


def begun(spec: TrainingRunSpec, tokens: int = 60, owner: Owner = TUNED) -> tuple[Begun, Program]:
    """What a run on four devices begins with, and its program."""
    assert spec.origin is not None
    program = build_program(spec, tokens, mesh_of(fsdp=2, tensor=2))
    prints = fingerprints(spec, data={})
    return begin(
        spec, spec.origin, owner=owner, fingerprints=prints, processes=OneProcess(), template=program.template, tokens=tokens
    ), program


def origin_of(tmp_path: Path, kind: str, **config: Any) -> dict[str, Any]:
    """A folder, or a root that it was imported into, as ``spec.from``."""
    folder = write_folder(tmp_path / "model", llama_tensors(), **config)
    if kind == "folder":
        return {"huggingFace": {"path": str(folder)}}
    import_model(store_of(folder), store_of(tmp_path / "root"), owner=Owner(namespace="tests", name="base"), clock=1e9)
    return {"run": "base", "root": f"file://{tmp_path / 'root'}"}


@pytest.mark.parametrize("kind", ["folder", "root"])
def test_each_device_gets_its_part_and_the_optimizer_starts_fresh(tmp_path: Path, kind: str) -> None:
    """The tokenizer has 60 tokens, the run's vocabulary 64 rows, the files 70: the first 64 are read."""
    found, program = begun(spec_of(tmp_path, origin_of(tmp_path, kind)))
    assert (found.step, found.state) == (0, None)
    model, _ = halcyon.load(f"hf:{tmp_path / 'model'}")
    whole = {leaf.path: np.asarray(leaf.value) for leaf in flatten(model)}
    template = {leaf.path: leaf for leaf in flatten(program.template.model)}
    for leaf in flatten(found.model):
        cut = tuple(slice(0, size) for size in leaf.shape)
        assert np.array_equal(np.asarray(leaf.value), whole[leaf.path][cut]), leaf.path
        assert leaf.sharding == template[leaf.path].sharding, leaf.path
    state = completed_state(program.complete_state, program.template, found.model)
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
    table = np.asarray(found.model.embedding.weight.array)
    assert (table.shape[0], table.dtype) == (128, jnp.bfloat16)
    assert np.array_equal(table[:TOKENS], llama_tensors()["model.embed_tokens.weight"].astype(jnp.bfloat16))
    assert not np.any(table[TOKENS:])


@pytest.mark.parametrize("kind", ["folder", "root"])
@pytest.mark.parametrize(
    ("config", "model", "tokens", "sentence"),
    [
        ({}, {"hiddenSize": 16}, 60, "hidden_size is 8 there, and 16 by spec.model.llama"),
        ({"rms_norm_eps": 1e-6}, {}, 60, "rms_norm_eps is 1e-06 there"),
        ({}, {}, 71, "spec.tokenizer: it has 71 tokens, but the model in .* knows only 70"),
    ],
)
def test_another_model_or_tokenizer_is_rejected(
    tmp_path: Path, kind: str, config: dict[str, Any], model: dict[str, Any], tokens: int, sentence: str
) -> None:
    with pytest.raises(BadConfiguration, match=sentence):
        begun(spec_of(tmp_path, origin_of(tmp_path, kind, **config), **model), tokens)


def test_entries_that_decide_nothing_may_differ() -> None:
    small: Any = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}
    qwen = [ModelSpec(qwen3=Qwen3Spec(**small, max_window_layers=layers)) for layers in (1, 28)]
    require_same(*qwen, "it")
    experts = [ModelSpec(qwen3_moe=Qwen3MoeSpec(**small, intermediate_size=size)) for size in (16, 24)]
    require_same(*experts, "it")
    mixed = [ModelSpec(qwen3_moe=Qwen3MoeSpec(**small, intermediate_size=size, decoder_sparse_step=2)) for size in (16, 24)]
    mixtral = [ModelSpec(mixtral=MixtralSpec(**small, intermediate_size=size)) for size in (16, 24)]
    for ours, theirs in (mixed, mixtral):
        with pytest.raises(BadConfiguration, match=r"it holds another model: intermediate_size is 24 there, and 16"):
            require_same(ours, theirs, "it")
    windows = [ModelSpec(qwen3=Qwen3Spec(**small, use_sliding_window=True, max_window_layers=layers)) for layers in (1, 2)]
    with pytest.raises(BadConfiguration, match="layer_types"):
        require_same(*windows, "it")


def test_a_run_can_begin_with_a_custom_model_of_the_same_section() -> None:
    narrow, wide = (ModelSpec.model_validate({"custom": {"class": "own.models:Model", "config": {"width": width}}}) for width in (8, 16))
    require_same(narrow, narrow, "spec.from: the checkpoint")
    with pytest.raises(BadConfiguration, match=r"the checkpoint holds another custom model; set spec.model.custom to its section"):
        require_same(narrow, wide, "spec.from: the checkpoint")


def test_another_factor_of_the_balance_loss_is_no_other_model() -> None:
    sizes = {"numHiddenLayers": 2, "hiddenSize": 8, "intermediateSize": 12, "numAttentionHeads": 4, "numLocalExperts": 4}
    ours = ModelSpec.model_validate({"mixtral": sizes | {"routerAuxLossCoef": 0.01}})
    require_same(ours, ModelSpec.model_validate({"mixtral": sizes | {"routerAuxLossCoef": 0.0}}), "spec.from")


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

    with pytest.raises(RootUnusable, match=r"^the folder s3://none/base does not exist; create the bucket, or correct spec.from \("):
        _together(OneProcess(), "s3://none/base", fail)


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
    document["spec"] |= {"model": {"llama": LLAMA}, "tokenizer": {"byte": {}}}
    document["spec"]["checkpoint"]["keep"] = 4
    tensors = llama_tensors()
    random = np.random.default_rng(5)
    tensors |= {name: random.standard_normal((259, 8)).astype(np.float32) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    folder = write_folder(tmp_path / "model", tensors, vocab_size=259)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    import_model(store_of(folder), store_of(tmp_path / "base"), owner=Owner(namespace="tests", name="base"), clock=1e9)
    losses: list[dict[int, float]] = []
    for name, origin in (
        ("first", {"huggingFace": {"path": str(folder)}}),
        ("second", {"run": "base", "root": f"file://{tmp_path / 'base'}"}),
    ):
        spec = document["spec"] | {"from": origin, "checkpoint": document["spec"]["checkpoint"] | {"root": f"file://{tmp_path / name}"}}
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

    from halcyon.cli.main import app

    done = CliRunner().invoke(app, ["export", "hf", str(tmp_path / "second"), str(tmp_path / "out")])
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert tensors_of(tmp_path / "out").keys() == tensors.keys()
    trained, _ = halcyon.load(f"hf:{tmp_path / 'out'}")
    again, _ = halcyon.load(str(tmp_path / "first"))
    tokens = [tokenizer.encode("three times four").tolist()]
    assert np.array_equal(np.asarray(halcyon.logits(trained, tokens)), np.asarray(halcyon.logits(again, tokens)))
