"""Import, export and loading of models in the files of Hugging Face, against the library ``safetensors`` and logits of
``transformers``.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import halcyon
from halcyon.checkpoint.arrays import Checkpoint
from halcyon.checkpoint.creating import create_checkpoint
from halcyon.checkpoint.opening import entry_of
from halcyon.commands.copy_checkpoint import copy_checkpoint
from halcyon.commands.main import app
from halcyon.host.errors import BadConfiguration, RootTaken
from halcyon.host.storage.store import Store
from halcyon.tokenizer import load as load_tokenizer
from halcyon.tokenizer.bpe import train_bpe
from halcyon.weights import creating, exporting
from halcyon.weights.exporting import export_model, plan_export
from halcyon.weights.root import StoredModel, stored_model
from halcyon_api.checkpoint_documents import ManifestLeaf, Owner
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.arrays import load_arrays
from tests.trainer.checkpoint.helpers import Root
from tests.trainer.weights.folders import (
    CASES,
    CONFIG,
    GOLDENS,
    TOKENS,
    bytes_read,
    exported,
    imported,
    llama_tensors,
    same_bits,
    store_of,
    tensors_of,
    write_folder,
)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param("bfloat16", marks=pytest.mark.variant)])
def test_import_and_export_are_inverse_to_each_other(tmp_path: Path, dtype: Any) -> None:
    original = llama_tensors(dtype)
    imported(write_folder(tmp_path / "model", original), tmp_path / "root")
    first = exported(tmp_path / "root", tmp_path / "first", file_bytes=2000)
    assert same_bits(first, original)
    index = json.loads((tmp_path / "first" / "model.safetensors.index.json").read_text())
    files = sorted(file.name for file in (tmp_path / "first").glob("*.safetensors"))
    assert len(files) > 2
    assert set(index["weight_map"].values()) == set(files)
    assert index["weight_map"].keys() == original.keys()
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in original.values())
    imported(tmp_path / "first", tmp_path / "again")
    assert same_bits(exported(tmp_path / "again", tmp_path / "second"), original)
    assert (tmp_path / "second" / "model.safetensors").exists()
    first_config, second_config = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second")
    )
    assert first_config == second_config
    assert {name: first_config[name] for name in CONFIG} == CONFIG


def test_an_import_reads_each_byte_once_and_an_export_reads_each_chunk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunks are so small that matrices are cut, and the export keeps only a few of them in memory."""
    original = llama_tensors()
    size = sum(one.nbytes for one in original.values())
    monkeypatch.setattr(creating, "chunk_limit", lambda total: 200)
    rows = bytes_read(monkeypatch)
    imported(write_folder(tmp_path / "model", original), tmp_path / "root")
    assert sum(rows) == size
    chunks: list[int] = []
    chunk = Checkpoint.chunk

    def counted(checkpoint: Checkpoint, leaf: ManifestLeaf, indices: tuple[int, ...]) -> np.ndarray:
        values = chunk(checkpoint, leaf, indices)
        chunks.append(values.nbytes)
        return values

    monkeypatch.setattr(Checkpoint, "chunk", counted)
    store = store_of(tmp_path / "root")
    export_model(stored_model(store, entry_of(store, None), kept_bytes=1000), store_of(tmp_path / "out"))
    assert same_bits(tensors_of(tmp_path / "out"), original)
    assert sum(chunks) < 1.1 * size


def test_several_processes_share_an_export_and_the_last_completes_it(tmp_path: Path) -> None:
    imported(write_folder(tmp_path / "model", llama_tensors()), tmp_path / "root")
    folder = tmp_path / "out"
    for part in (1, 0, 2):
        assert not (folder / "config.json").exists()
        exported(tmp_path / "root", folder, file_bytes=2000, part=part, parts=3)
    assert same_bits(tensors_of(folder), llama_tensors())
    assert same_bits(exported(tmp_path / "root", tmp_path / "one", file_bytes=2000), llama_tensors())
    names = sorted(file.name for file in folder.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "one").iterdir())
    assert all((folder / name).read_bytes() == (tmp_path / "one" / name).read_bytes() for name in names)


def test_parts_of_different_exports_are_not_mixed(tmp_path: Path) -> None:
    for seed in (1, 2):
        imported(write_folder(tmp_path / f"model-{seed}", llama_tensors(seed=seed)), tmp_path / f"root-{seed}")
    folder = tmp_path / "out"
    exported(tmp_path / "root-1", folder, file_bytes=2000, part=0, parts=2)
    for root, options in (("root-2", {}), ("root-1", {"dtype": "bfloat16"})):
        with pytest.raises(
            BadConfiguration, match="holds a part of another export; give all commands the same ROOT@STEP"
        ):
            exported(tmp_path / root, folder, file_bytes=2000, part=1, parts=2, **options)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"of a killed command")
    with pytest.raises(BadConfiguration, match="holds files of an unfinished export; delete them"):
        exported(tmp_path / "root-1", folder, file_bytes=2000, part=0, parts=2)
    assert not (folder / "config.json").exists()


def test_files_that_no_part_has_recorded_do_not_count(tmp_path: Path) -> None:
    """A killed command leaves a file of its part: the other part does not take it for complete."""
    imported(write_folder(tmp_path / "model", llama_tensors()), tmp_path / "root")
    folder = tmp_path / "out"
    exported(tmp_path / "root", folder, file_bytes=2000, part=1, parts=2)
    (folder / "parts" / "2-of-2.json").unlink()
    exported(tmp_path / "root", folder, file_bytes=2000, part=0, parts=2)
    assert not (folder / "config.json").exists()


def test_the_checkpoint_of_an_import_verifies_and_shows_as_any_other(tmp_path: Path) -> None:
    imported(write_folder(tmp_path / "model", llama_tensors()), tmp_path / "root")
    runner = CliRunner()
    assert "0" in runner.invoke(app, ["checkpoints", "list", str(tmp_path / "root")]).stdout
    assert runner.invoke(app, ["checkpoints", "verify", str(tmp_path / "root")]).exit_code == 0
    (tmp_path / "root" / "choices").mkdir()
    (tmp_path / "root" / "choices" / "a.json").write_text("{}")
    assert runner.invoke(app, ["checkpoints", "copy", str(tmp_path / "root"), str(tmp_path / "copy")]).exit_code == 0
    assert (tmp_path / "copy" / "choices" / "a.json").read_text() == "{}"
    assert same_bits(exported(tmp_path / "copy", tmp_path / "out"), llama_tensors())


@pytest.mark.slow
def test_every_place_may_be_an_object_store(s3_root: Root, tmp_path: Path) -> None:
    address, endpoint = s3_root.spec.root, s3_root.spec.endpoint or ""
    folder = write_folder(tmp_path / "model", llama_tensors())
    model_store = Store(s3_root.spec.model_copy(update={"root": f"{address}/model"}))
    for file in folder.iterdir():
        model_store.write(file.name, file.read_bytes())
    stores = ["--endpoint", endpoint]
    done = command(
        "import", "hf", f"{address}/model", "--root", f"{address}/base", *stores, "--root-endpoint", endpoint
    )
    assert done.exit_code == 0, done.stderr
    done = command(
        "export",
        "hf",
        f"{address}/base@0",
        f"{address}/out",
        *stores,
        "--to-endpoint",
        endpoint,
        "--file-bytes",
        "2000",
    )
    assert done.exit_code == 0, done.stderr
    assert same_bits(tensors_of(s3_root.folder / "out"), llama_tensors())
    model, _ = halcyon.load(f"hf:{address}/out", endpoint=endpoint)
    again, _ = halcyon.load(f"{address}/base", endpoint=endpoint)
    assert np.array_equal(np.asarray(halcyon.logits(model, [[1, 2]])), np.asarray(halcyon.logits(again, [[1, 2]])))
    model_store.write("model.safetensors", (folder / "model.safetensors").read_bytes()[:-1])
    done = command("import", "hf", f"{address}/model", "--root", str(tmp_path / "root"), *stores)
    assert (done.exit_code, "missing or truncated" in done.stderr) == (ExitCode.BAD_CONFIGURATION, True), done.stderr
    done = command("import", "hf", f"{address}/none", "--root", str(tmp_path / "root"), *stores)
    assert (done.exit_code, "has no config.json" in done.stderr) == (ExitCode.BAD_CONFIGURATION, True), done.stderr


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    golden = load_arrays(GOLDENS / case / "logits.npz")
    model, tokenizer = halcyon.load(f"hf:{GOLDENS / case}")
    found = np.asarray(halcyon.logits(model, golden["tokens"]))
    assert (tokenizer is not None) == (GOLDENS / case / "tokenizer.json").exists()
    assert (found.shape, found.dtype) == (golden["logits"].shape, np.float32)
    assert np.abs(found - golden["logits"]).max() <= 1e-5 * np.abs(golden["logits"]).max()

    imported(GOLDENS / case, tmp_path / "root")
    again, _ = halcyon.load(f"{tmp_path / 'root'}@0")
    assert np.array_equal(np.asarray(halcyon.logits(again, golden["tokens"])), found)


@pytest.mark.parametrize("case", CASES)
def test_an_export_has_the_files_that_transformers_writes(case: str, tmp_path: Path) -> None:
    """The same tensors, bit for bit, and every entry of config.json that decides the numbers: so it computes the same
    logits there.
    """
    imported(GOLDENS / case, tmp_path / "root")
    assert same_bits(exported(tmp_path / "root", tmp_path / "out"), tensors_of(GOLDENS / case))
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", GOLDENS / case))
    free = {
        "transformers_version",
        "pretraining_tp",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "rope_parameters",
        "use_cache",
    }
    differ = {name for name in theirs if ours.get(name) != theirs[name] and theirs[name] is not None} - free
    assert not {name for name in differ if name in ours and not name.endswith("_pdrop")}, differ
    if "rope_parameters" in theirs:
        assert ours["rope_parameters"] == theirs["rope_parameters"]
        assert ours["rope_theta"] == theirs["rope_parameters"]["rope_theta"]


def test_an_export_keeps_the_longest_sequence_of_its_base(tmp_path: Path) -> None:
    """A run with shorter sequences began with the model. Positions that are learned are cut."""
    for case, positions, expected in (("qwen3", "max_position_embeddings", None), ("gpt2", "n_positions", 8)):
        imported(GOLDENS / case, tmp_path / case)
        store = store_of(tmp_path / case)
        stored = replace(stored_model(store, entry_of(store, None)), positions=8)
        export_model(stored, store_of(tmp_path / f"{case}-out"))
        found, base = (
            json.loads((folder / "config.json").read_text())[positions]
            for folder in (tmp_path / f"{case}-out", GOLDENS / case)
        )
        assert found == (expected or base)
        assert base > 8


def test_the_types_of_an_import_and_of_an_export_can_be_chosen(tmp_path: Path) -> None:
    original = llama_tensors()
    imported(write_folder(tmp_path / "model", original), tmp_path / "root", dtype="bfloat16")
    narrow = exported(tmp_path / "root", tmp_path / "narrow")
    assert all(np.array_equal(narrow[name], original[name].astype(jnp.bfloat16)) for name in original)
    wide = exported(tmp_path / "root", tmp_path / "wide", dtype="float32")
    assert all(np.array_equal(wide[name], original[name].astype(jnp.bfloat16).astype(np.float32)) for name in original)
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"


def test_tokenizer_template_and_settings_travel(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", llama_tensors(tokens=300), vocab_size=300)
    own = train_bpe(["a b c d"] * 10, 300, ())
    (folder / "tokenizer.json").write_bytes(own.content)
    files = {
        "tokenizer_config.json": b'{"eos_token": "<|user_end|>"}',
        "chat_template.jinja": b"{{ messages }}",
        "generation_config.json": b'{"eos_token_id": [2, %d]}' % load_tokenizer(own).special_tokens["<|user_end|>"],
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    imported(folder, tmp_path / "root")
    _, tokenizer = halcyon.load(str(tmp_path / "root"))
    _, original = halcyon.load(f"hf:{folder}")
    assert tokenizer is not None
    assert original is not None
    assert tokenizer.encode("a b").tolist() == original.encode("a b").tolist()
    exported(tmp_path / "root", tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_a_model_without_a_row_for_each_id_of_its_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", llama_tensors())
    (folder / "tokenizer.json").write_bytes(train_bpe(["a b c d"] * 10, 300, ()).content)
    imported(folder, tmp_path / "root")
    for place in (f"hf:{folder}", str(tmp_path / "root")):
        with pytest.raises(
            BadConfiguration, match=rf": the tokenizer has \d+ ids, and the model has rows for {TOKENS};"
        ):
            halcyon.load(place)


def test_a_run_with_another_tokenizer_exports_the_ids_of_its_own(tmp_path: Path) -> None:
    """The files of the base's tokenizer are left out; its chat template and its other settings stay."""
    folder = write_folder(tmp_path / "model", llama_tensors())
    for name, data in {
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b'{"eos_token": "</s>"}',
        "chat_template.jinja": b"{{ messages }}",
        "generation_config.json": b'{"eos_token_id": [2, 3], "top_k": 20}',
    }.items():
        (folder / name).write_bytes(data)
    own = train_bpe(["a b c d"] * 10, 300, ())
    stored = replace(_stored(folder, tmp_path / "root"), definition=own)
    export_model(stored, store_of(tmp_path / "out"))
    tokenizer, out = load_tokenizer(own), tmp_path / "out"
    written = json.loads((out / "tokenizer.json").read_text())
    processor = written.pop("post_processor")
    assert {"post_processor": None, **written} == {**json.loads(own.content), "post_processor": None}
    assert processor["special_tokens"]["<|bos|>"]["ids"] == [tokenizer.bos_id]
    assert json.loads((out / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (out / "chat_template.jinja").read_bytes() == b"{{ messages }}"
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    assert json.loads((out / "generation_config.json").read_text()) == {"top_k": 20, **ids}
    config = json.loads((out / "config.json").read_text())
    assert {name: config[name] for name in ids} == ids


def _stored(folder: Path, root: Path) -> StoredModel:
    imported(folder, root)
    return stored_model(store_of(root), entry_of(store_of(root), None))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "tokenizer_config.json"])
def test_a_deeply_nested_document_is_one_sentence(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "model", llama_tensors())
    (folder / "tokenizer.json").write_text("{}")
    (folder / name).write_text("[" * 100_000)
    with pytest.raises(BadConfiguration, match=f"{name} is (no JSON|damaged)"):
        imported(folder, tmp_path / "root")


def test_logits_reject_what_the_model_cannot_take(tmp_path: Path) -> None:
    model, _ = halcyon.load(f"hf:{write_folder(tmp_path / 'model', llama_tensors())}")
    with pytest.raises(ValueError, match="give an array"):
        halcyon.logits(model, [1, 2])
    with pytest.raises(TypeError, match="give integers"):
        halcyon.logits(model, [[1.0]])
    with pytest.raises(ValueError, match=f"ids of 0 to {TOKENS - 1}, not 3 to {TOKENS}"):
        halcyon.logits(model, [[3, TOKENS]])
    with pytest.raises(ValueError, match="longer than the model's 32 positions"):
        halcyon.logits(model, [[0] * 33])


def command(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})


def test_the_commands_import_and_export(tmp_path: Path) -> None:
    original = llama_tensors()
    write_folder(tmp_path / "model", original)
    done = command("import", "hf", tmp_path / "model", "--root", tmp_path / "Base_1")
    assert done.exit_code == 0, done.stderr
    assert "run: base-1" in done.stdout
    assert "numHiddenLayers: 2" in done.stdout
    done = command("export", "hf", tmp_path / "Base_1", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "21 tensors" in done.stdout
    assert same_bits(tensors_of(tmp_path / "out"), original)
    again = command("export", "hf", f"{tmp_path / 'Base_1'}@0", tmp_path / "out")
    assert (again.exit_code, "holds a model already" in again.stderr) == (ExitCode.BAD_CONFIGURATION, True)
    assert (
        "--part needs ROOT@STEP"
        in command("export", "hf", tmp_path / "Base_1", tmp_path / "new", "--part", "1/2").stderr
    )
    assert "has no checkpoint of step 7" in command("export", "hf", f"{tmp_path / 'Base_1'}@7", tmp_path / "new").stderr
    again = command("import", "hf", tmp_path / "model", "--root", tmp_path / "Base_1")
    assert (again.exit_code, "holds checkpoints already" in again.stderr) == (ExitCode.ROOT_TAKEN, True)


def test_a_file_that_s3_does_not_take_is_rejected_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "S3_FILE_BYTES", 2000)
    stored = _stored(write_folder(tmp_path / "model", llama_tensors()), tmp_path / "root")
    plan = plan_export(stored)
    with pytest.raises(
        BadConfiguration, match=r"model.safetensors has \d+ bytes, more than S3 takes in one request: its largest"
    ):
        plan.write(Store(CheckpointSpec(root="s3://bucket/out", endpoint="http://127.0.0.1:1")), "model.safetensors")
    plan.write(store_of(tmp_path / "out"), "model.safetensors")


def test_an_export_says_why_it_has_no_tokenizer(tmp_path: Path) -> None:
    imported(write_folder(tmp_path / "model", llama_tensors()), tmp_path / "root")
    assert (
        "without a tokenizer: the root has none" in command("export", "hf", tmp_path / "root", tmp_path / "out").stdout
    )
    store = store_of(tmp_path / "root")
    model, entry = stored_model(store, entry_of(store, None)), entry_of(store, None)
    create_checkpoint(
        store_of(tmp_path / "bytes"),
        [leaf.model_copy(update={"path": f"model.{path}"}) for path, leaf in model.arrays.leaves.items()],
        lambda leaf, region: model.arrays.read(leaf.path.removeprefix("model."), region),
        owner=Owner(namespace="default", name="bytes"),
        documents={"spec.model": model.spec.document(), "spec.tokenizer": {"byte": {}}, "data": {}},
        vocabulary=model.tokens,
        positions=model.positions,
        time=entry.time,
    )
    done = command("export", "hf", tmp_path / "bytes", tmp_path / "bytes-out")
    assert "without a tokenizer: one of the kind byte has no file there" in done.stdout, done.output


def broken(folder: Path, what: str) -> None:
    """Break a folder in one way."""
    tensors, file = llama_tensors(), folder / "model.safetensors"
    match what:
        case "shape":
            write_folder(folder, {**tensors, "model.norm.weight": np.zeros(9, np.float32)})
        case "lacking":
            write_folder(
                folder, {name: one for name, one in tensors.items() if name != "model.layers.1.mlp.up_proj.weight"}
            )
        case "surplus":
            write_folder(folder, {**tensors, "model.layers.2.mlp.up_proj.weight": np.zeros((12, 8), np.float32)})
        case "architecture":
            write_folder(folder, tensors, architectures=["LlamoForCausalLM"])
        case "truncated":
            file.write_bytes(file.read_bytes()[:-1])
        case "header":
            file.write_bytes(file.read_bytes()[:100])
        case "longer":
            file.write_bytes(file.read_bytes() + b"xx")
        case "no header":
            file.write_bytes(b"{}")
        case "gap":
            data = file.read_bytes()
            size = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + size])
            header["lm_head.weight"] = header[
                "model.embed_tokens.weight"
            ]  # two tensors at one place, and a place without one
            file.write_bytes(
                data[:8] + json.dumps(header, separators=(",", ":")).encode().ljust(size) + data[8 + size :]
            )
        case "type":
            write_folder(folder, {**tensors, "model.norm.weight": np.zeros(8, np.int8)})
        case "no file":
            file.unlink()
        case "index":
            index = {"weight_map": {**dict.fromkeys(tensors, file.name), "model.more.weight": file.name}}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        case "part":
            index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00002.safetensors")}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        case "config":
            (folder / "config.json").write_text("{")
        case "positions":
            write_folder(folder, tensors, max_position_embeddings=0)
        case "sizes":
            write_folder(folder, tensors, num_key_value_heads=3)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("shape", r"the tensor model.norm.weight has the shape \[9\] in the files, and \[8\] by the configuration"),
        ("lacking", r"the files have no tensor model.layers.1.mlp.up_proj.weight"),
        ("surplus", r"the tensor model.layers.2.mlp.up_proj.weight is no part of this model"),
        (
            "architecture",
            r"names LlamoForCausalLM, which Halcyon does not have; the nearest that it has is LlamaForCausalLM",
        ),
        ("truncated", r"model.safetensors is missing or truncated: it must have at least \d+ bytes"),
        ("header", r"model.safetensors is missing or truncated"),
        ("longer", r"model.safetensors is longer than the \d+ bytes that its header says"),
        ("no header", r"model.safetensors is missing or truncated|no safetensors file"),
        ("gap", r"is damaged: its tensors overlap or leave a gap"),
        ("type", r"the tensor model.norm.weight in .* has the type I8, which cannot be imported"),
        ("no file", r"has neither model.safetensors nor model.safetensors.index.json"),
        ("index", r"says that the tensor model.more.weight is in model.safetensors, but it is not"),
        ("part", r"model-00001-of-00002.safetensors is missing or truncated"),
        ("config", r"config.json is no JSON"),
        ("positions", r"config.json: max_position_embeddings is 0; it must be at least 1"),
        ("sizes", r"config.json: numKeyValueHeads must divide numAttentionHeads"),
    ],
)
def test_a_broken_folder_is_named_and_leaves_no_checkpoint(tmp_path: Path, what: str, sentence: str) -> None:
    folder = write_folder(tmp_path / "model", llama_tensors())
    broken(folder, what)
    with pytest.raises(BadConfiguration, match=sentence):
        imported(folder, tmp_path / "root")
    assert not (tmp_path / "root" / "HEAD").exists()


def test_the_check_of_a_files_length_reads_two_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "model", llama_tensors())
    file = folder / "model.safetensors"
    size, header = file.stat().st_size, int.from_bytes(file.read_bytes()[:8], "little")
    with file.open("ab") as opened:
        opened.truncate(size + (1 << 30))
    read, read_ranges = [], Store.read_ranges

    def counted(store: Store, requests: Any) -> list[bytes]:
        read.extend(end - start for _, start, end in requests)
        return read_ranges(store, requests)

    monkeypatch.setattr(Store, "read_ranges", counted)
    monkeypatch.setattr(Store, "tail", None)
    with pytest.raises(BadConfiguration, match=f"is longer than the {size} bytes that its header says"):
        imported(folder, tmp_path / "root")
    assert sum(read) == 8 + header + 2


@pytest.mark.parametrize("dtype", ["bool", pytest.param("uint8", marks=pytest.mark.variant)])
def test_a_mask_of_another_type_beside_the_weights_is_ignored(tmp_path: Path, dtype: str) -> None:
    tensors = tensors_of(GOLDENS / "gpt2")
    masks = {f"h.{layer}.attn.bias": np.ones((1, 1, 4, 4), dtype) for layer in range(2)}
    folder = write_folder(
        tmp_path / "model", {**tensors, **masks}, json.loads((GOLDENS / "gpt2" / "config.json").read_text())
    )
    imported(folder, tmp_path / "root")
    assert same_bits(exported(tmp_path / "root", tmp_path / "out"), tensors)


def test_a_killed_import_can_be_started_again(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", llama_tensors())
    entry = imported(folder, tmp_path / "root")
    (tmp_path / "root" / "HEAD").unlink()
    shutil.rmtree(tmp_path / "root" / entry.path / "data")
    (tmp_path / "root" / entry.path / "MANIFEST.json").unlink()
    imported(folder, tmp_path / "root")
    assert same_bits(exported(tmp_path / "root", tmp_path / "out"), llama_tensors())


@pytest.mark.parametrize("written", [True, False])
def test_an_import_whose_commit_has_no_answer_reads_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """The store retries a compare-and-swap whose answer was lost, and finds the generation of its first try, or of
    another writer.
    """
    swap = Store.swap

    def unanswered(store: Store, key: str, data: bytes, generation: bytes) -> None:
        swap(store, key, data if written else b"of another writer", generation)

    monkeypatch.setattr(Store, "swap", unanswered)
    folder = write_folder(tmp_path / "model", llama_tensors())
    if written:
        entry = imported(folder, tmp_path / "root")
        copy_checkpoint(store_of(tmp_path / "root"), entry, store_of(tmp_path / "copy"))
        assert same_bits(exported(tmp_path / "copy", tmp_path / "out"), llama_tensors())
    else:
        with pytest.raises(RootTaken, match="was taken by a run meanwhile"):
            imported(folder, tmp_path / "root")


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        BadConfiguration,
        match="there is no folder org/model; give that of a model; a model of the Hugging Face hub is hf://org/model",
    ):
        halcyon.load("hf:org/model")
    with pytest.raises(BadConfiguration, match=r"after the @ comes a step"):
        halcyon.load(f"{tmp_path}@newest")
    with pytest.raises(BadConfiguration, match="holds no checkpoint"):
        halcyon.load(str(tmp_path))
