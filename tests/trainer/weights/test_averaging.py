"""``halcyon checkpoints average``: the mean of float32 sums, as a checkpoint that a run begins with; other models are
rejected.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

import halcyon
from halcyon.commands.main import app
from halcyon.weights.creating import import_model
from halcyon_api.checkpoint_documents import Owner
from halcyon_api.ends import ExitCode
from tests.trainer.weights.folders import llama_tensors, same_bits, store_of, tensors_of, write_folder


def imported(
    tmp_path: Path, seed: int, dtype: Any = np.float32, tensors: dict[str, np.ndarray] | None = None, **config: Any
) -> str:
    """A root with a model of random weights."""
    root = tmp_path / f"root-{seed}"
    folder = write_folder(tmp_path / f"model-{seed}", tensors or llama_tensors(dtype, seed), **config)
    import_model(store_of(folder), store_of(root), owner=Owner(namespace="default", name="base"), clock=1e9)
    return f"{root}@0"


def average(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["checkpoints", "average", *map(str, arguments)], env={"COLUMNS": "300"})


@pytest.mark.parametrize("dtype", [np.float32, pytest.param("bfloat16", marks=pytest.mark.variant)])
def test_each_element_is_the_rounded_mean_of_a_float32_sum(tmp_path: Path, dtype: Any) -> None:
    places = [imported(tmp_path, seed, dtype) for seed in (1, 2, 3)]
    done = average(*places, "--root", tmp_path / "soup")
    assert done.exit_code == 0, done.stderr
    document = yaml.safe_load(done.stdout)
    assert document["spec"]["from"] == {"run": "soup", "root": f"file://{tmp_path}/soup"}
    assert document["spec"]["model"]["hiddenSize"] == 8
    exported = CliRunner().invoke(app, ["export", "hf", str(tmp_path / "soup"), str(tmp_path / "out")])
    assert exported.exit_code == 0, exported.stderr
    tensors = [llama_tensors(dtype, seed) for seed in (1, 2, 3)]
    expected: dict[str, np.ndarray] = {}
    for name in tensors[0]:
        total = sum((one[name].astype(np.float32) for one in tensors[1:]), tensors[0][name].astype(np.float32))
        expected[name] = (total / np.float32(3)).astype(jnp.dtype(dtype))
    assert same_bits(tensors_of(tmp_path / "out"), expected)
    assert CliRunner().invoke(app, ["checkpoints", "verify", str(tmp_path / "soup")]).exit_code == 0
    halcyon.load(str(tmp_path / "soup"))
    kept = [json.loads((tmp_path / name / "huggingface" / "config.json").read_text()) for name in ("root-1", "soup")]
    assert [one["_name_or_path"] for one in kept] == [str(tmp_path / "model-1"), None], "no files hold the mean"


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            {"rms_norm_eps": 1e-6},
            "hold different models: model.rmsNormEps is 1e-05 and 1e-06; average checkpoints of one model",
        ),
        ({"dtype": "bfloat16"}, "has the type float32 in"),
        ({"vocab_size": 69}, "have 70 and 69 tokens; average checkpoints of one tokenizer"),
    ],
)
def test_checkpoints_of_other_models_are_rejected_in_one_sentence(
    tmp_path: Path, other: dict[str, Any], sentence: str
) -> None:
    dtype = other.pop("dtype", np.float32)
    tensors = llama_tensors(dtype, 2)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][: other.get("vocab_size", 70)]
    found = average(imported(tmp_path, 1), imported(tmp_path, 2, tensors=tensors, **other), "--root", tmp_path / "soup")
    assert found.exit_code == ExitCode.BAD_CONFIGURATION
    assert sentence in found.stderr
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "soup" / "HEAD").exists()


def test_an_average_needs_two_checkpoints_and_a_fresh_root(tmp_path: Path) -> None:
    one, two = imported(tmp_path, 1), imported(tmp_path, 2)
    for arguments, sentence in (
        ((one,), "an average needs at least two checkpoints"),
        ((one, one), "is named twice; name each checkpoint once"),
        ((one, two.replace("@0", "@7")), "has no checkpoint of step 7; there are 0"),
    ):
        found = average(*arguments, "--root", tmp_path / "soup")
        assert (found.exit_code, sentence in found.stderr) == (ExitCode.BAD_CONFIGURATION, True), found.stderr
    found = average(one, two, "--root", tmp_path / "root-1")
    assert (found.exit_code, "holds checkpoints already" in found.stderr) == (ExitCode.ROOT_TAKEN, True), found.stderr
