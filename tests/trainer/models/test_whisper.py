"""Whisper beside what all families share (test_parity.py): its files, its greedy text, its sizes."""

from __future__ import annotations

import json
from pathlib import Path

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import halcyon
from halcyon.host.errors import BadConfiguration
from halcyon.inference.speech import heard_tokens
from halcyon.models import Inputs
from halcyon.models.dropout import masked
from halcyon.models.parameters import parameter_count
from halcyon.weights.library import file_tensors
from halcyon_api.spec.families.whisper import WhisperSpec
from halcyon_api.spec.trainer import DropoutSpec
from tests.trainer.models.cases import shapes
from tests.trainer.models.parity import Golden

GOLDEN = Golden.load("whisper")
SOUND = np.moveaxis(GOLDEN.arrays["sound"], 1, 2)


def folder(path: Path, **other: np.ndarray) -> str:
    path.mkdir()
    weights = {name: array.astype(np.float32) for name, array in GOLDEN.named("weight").items()}
    save_file({name: array for name, array in (weights | other).items() if array.size}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(GOLDEN.config.document))
    return f"hf:{path}"


def test_files_are_read_and_written_without_a_change(tmp_path: Path) -> None:
    model, _ = halcyon.load(folder(tmp_path / "model", **{"proj_out.weight": np.zeros((29, 16), np.float32)}))
    written = file_tensors(GOLDEN.spec, model)
    original = GOLDEN.named("weight")
    assert written.keys() == original.keys()
    assert all((written[name] == original[name].astype(np.float32)).all() for name in original)


@pytest.mark.parametrize(
    ("name", "shape"), [("model.encoder.conv2.bias", (0,)), ("model.encoder.conv3.bias", (16,))], ids=["less", "more"]
)
def test_a_tensor_too_many_or_too_few_is_named(tmp_path: Path, name: str, shape: tuple[int]) -> None:
    with pytest.raises(BadConfiguration, match=name):
        halcyon.load(folder(tmp_path / "model", **{name: np.zeros(shape, np.float32)}))


def test_greedy_text_is_that_of_transformers() -> None:
    model, expected, tokens = GOLDEN.model(), GOLDEN.arrays["greedy"], GOLDEN.arrays["tokens"]
    for row, wanted in enumerate(expected.tolist()):
        found = heard_tokens(model, SOUND[row : row + 1], tokens[row, :2], end=-1, most=len(wanted))
        assert found[0].tolist() == wanted
        ends = heard_tokens(model, SOUND[row : row + 1], tokens[row, :2], end=wanted[3], most=len(wanted))
        assert ends[0].tolist() == wanted[: wanted.index(wanted[3])]


def test_a_model_without_a_sound_is_no_call() -> None:
    with pytest.raises(ValueError, match="needs a sound"):
        GOLDEN.model()(Inputs(hax.named(GOLDEN.arrays["tokens"], ("batch", "position"))))


def test_sizes_are_those_of_the_section() -> None:
    spec = WhisperSpec(num_hidden_layers=2, encoder_layers=3, hidden_size=24, encoder_ffn_dim=20, num_mel_bins=7)
    assert parameter_count(shapes(spec)) == spec.shape(24, 12).parameters
    # Tiny: 37,760,640 with the positions of the encoder.
    assert WhisperSpec().shape(51_865, 448).parameters == 37_760_640
    assert jax.tree.structure(shapes(spec)) == jax.tree.structure(shapes(spec))


def test_masks_of_a_sound_are_functions_of_the_number_of_its_row() -> None:
    rates, seeds = DropoutSpec(frames=0.3, bands=0.2), jnp.arange(40, dtype=jnp.uint32)
    sound = hax.ones((hax.Axis("batch", 40), hax.Axis("position", 200), hax.Axis("mel", 80)))
    found = masked(sound, rates, seeds).array
    zeros = np.asarray(found == 0)
    frames, bands = zeros.all(2), zeros.all(1)
    assert 0.2 < frames.mean() < 0.3
    assert 0.12 < bands.mean() < 0.2
    assert (zeros == (frames[:, :, None] | bands[:, None, :])).all()
    runs = np.diff(np.flatnonzero(np.diff(np.pad(frames[:, 10:-10], ((0, 0), (1, 1))).astype(int)).ravel()))[::2]
    assert np.median(runs) >= 10
    other = masked(sound["batch", 5:8], rates, seeds[5:8]).array
    assert (other == found[5:8]).all(), "neither the microbatch nor the other rows decide"
    assert masked(sound, DropoutSpec(), seeds) is sound
