"""Gemma 3 and Qwen 2.5-VL with images beside what all families share (test_parity.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import haliax as hax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import Axis

import halcyon
from halcyon.host.errors import BadConfiguration
from halcyon.models.parameters import parameter_count
from halcyon.models.parts.attention import attention
from halcyon.models.parts.masks import Causal, Segments, Until, Window
from halcyon.models.published.config import ConfigReader
from halcyon_api.spec.families.gemma import Gemma3Spec
from halcyon_api.spec.families.qwen import Qwen2Spec
from halcyon_api.spec.families.vision import QwenVisionSpec, VisionSpec
from tests.arrays import load_arrays
from tests.parity.published_size import FILE, row
from tests.parity.weights import computed_weights
from tests.trainer.models.cases import shapes
from tests.trainer.models.parity import Golden
from tests.trainer.weights.folders import write_folder

GOLDEN, QWEN = Golden.load("gemma3-images"), Golden.load("qwen2.5-vl")
BOTH = [pytest.param(one, id=one.spec.family) for one in (GOLDEN, QWEN)]


def test_sizes_are_those_of_the_section() -> None:
    vision = VisionSpec(num_hidden_layers=3, num_attention_heads=2, head_dim=10, intermediate_size=9, patch_size=3)
    spec = Gemma3Spec(num_hidden_layers=2, hidden_size=24, num_attention_heads=4, vision=vision)
    assert parameter_count(shapes(spec)) == spec.shape(24, 12).parameters
    # That of Gemma 3 4B: 416,866,032 in SigLIP, and 2,950,272 in the norm and the projection behind it.
    whole, text = (
        Gemma3Spec(hidden_size=2560, head_dim=8, vision=one).shape(8, 8).parameters for one in (VisionSpec(), None)
    )
    assert whole - text == 416_866_032 + 2_950_272
    assert VisionSpec().image_size == 896
    small = QwenVisionSpec(num_hidden_layers=3, num_attention_heads=2, head_dim=8, intermediate_size=9, patch_size=3)
    qwen = Qwen2Spec(num_hidden_layers=2, hidden_size=24, num_attention_heads=4, vision=small)
    assert parameter_count(shapes(qwen)) == qwen.shape(24, 12).parameters
    # That of Qwen 2.5-VL 7B: 676,550,144 in its encoder, of which 44,574,464 are in the MLP and the norm after it.
    whole, text = (
        Qwen2Spec(hidden_size=3584, head_dim=8, vision=one).shape(8, 8).parameters for one in (QwenVisionSpec(), None)
    )
    assert whole - text == 676_550_144
    assert (QwenVisionSpec().image_size, QwenVisionSpec().tokens) == (448, 256)
    assert [number for number, whole in enumerate(QwenVisionSpec().whole) if whole] == [7, 15, 23, 31]


@pytest.mark.parametrize("golden", BOTH)
def test_a_text_is_that_of_the_text_model(tmp_path: Path, golden: Golden) -> None:
    tensors = {name: array.astype(np.float32) for name, array in golden.named("weight").items()}
    folder = write_folder(tmp_path / "model", tensors, dict(golden.config.document))
    (text, _), (whole, _) = (halcyon.load(f"hf:{folder}", images=images) for images in (False, True))
    row, pixels = golden.arrays["tokens"][:1], golden.arrays["images"][:1]
    assert (halcyon.logits(text, row) == halcyon.logits(whole, row)).all()
    one, other = (halcyon.logits(whole, row, images=images) for images in (pixels, pixels[:, ::-1]))
    assert (one[0, 0] == other[0, 0]).all(), "no image stands before the first token"
    assert (one[0, 1:] != other[0, 1:]).any(-1).all(), "the first token of an image sees all of it"


def test_windows_of_a_larger_image_are_those_of_transformers() -> None:
    """Also where the image ends within a window."""
    model: Any = QWEN.model()
    images = hax.named(QWEN.arrays["large"][:, None], ("batch", "image", "row", "column", "colour"))
    found = model.encoder(images, jnp.dtype("float32")).rearrange(("batch", "position", "embed")).array
    expected = QWEN.arrays["large seen"].reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_positions_of_a_text_go_on_after_the_rows_of_an_image() -> None:
    model: Any = QWEN.model()
    tokens = hax.named(np.array([[1, 7, 7, 7, 7, 2, 7, 7, 7, 7, 3, 4]]), ("batch", "position"))
    assert np.concatenate(model.places(tokens)).tolist() == [
        [0, 1, 1, 1, 1, 3, 4, 4, 4, 4, 6, 7],
        [0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 7],
        [0, 1, 2, 1, 2, 3, 4, 5, 4, 5, 6, 7],
    ]


@pytest.mark.slow
@pytest.mark.variant
def test_an_image_of_the_published_size_is_seen_as_by_transformers() -> None:
    tokens, images = row()
    stored = load_arrays(FILE)
    config = ConfigReader.parse(stored["config"].tobytes())
    golden = Golden(config, {"tokens": tokens, "logits": stored["logits"]})
    _, layout = golden.layout()
    drawn = computed_weights({name: tensor.shape for name, tensor in layout.tensors.items() if tensor.views})
    golden.arrays.update({f"weight {name}": array for name, array in drawn.items()})
    found = np.asarray(halcyon.logits(golden.model(), tokens, images=images))[:, ::8]
    assert np.abs(found - stored["logits"]).max() <= 1e-5 * np.abs(stored["logits"]).max()


@pytest.mark.parametrize(
    ("golden", "part", "entry", "value"),
    [
        (GOLDEN, "vision_config", "vision_use_head", True),
        (GOLDEN, "vision_config", "image_size", 24),
        (GOLDEN, "vision_config", "hidden_act", "gelu"),
        (GOLDEN, "", "mm_tokens_per_image", 5),
        (QWEN, "vision_config", "fullatt_block_indexes", [2, 7]),
        (QWEN, "vision_config", "window_size", 112),
        (QWEN, "text_config", "rope_parameters", {"rope_type": "default", "mrope_section": [4, 2, 2]}),
    ],
)
def test_another_encoder_is_named(tmp_path: Path, golden: Golden, part: str, entry: str, value: object) -> None:
    config = dict(golden.config.document)
    changed = {entry: value} if not part else {part: {**config[part], entry: value}}
    folder = write_folder(tmp_path / "model", {"a": np.zeros(1, np.float32)}, config | changed)
    entry = "mrope_section" if part == "text_config" else entry
    with pytest.raises(BadConfiguration, match=f"{entry} is .* computes this model only with"):
        halcyon.load(f"hf:{folder}", images=True)


def test_images_in_blocks_are_seen_whole() -> None:
    """Also where a window, or the document, hides a part."""
    noise = np.random.default_rng(0)
    position, key_position, size = Axis("position", 32), Axis("key_position", 32), Axis("head_size", 4)
    query, key, value = (
        hax.named(jnp.asarray(noise.standard_normal((2, 32, 4)), jnp.float32), ("batch", place, size))
        for place in (position, key_position, key_position)
    )
    model: Any = GOLDEN.model()
    tokens = np.zeros((2, 32), np.int32)
    tokens[0, 3:7] = tokens[0, 14:18] = tokens[1, 8:12] = 7
    until = Until(hax.named(model.image_ends(hax.named(tokens, ("batch", "position"))), ("batch", "position")), 4)
    segments = Segments(hax.named(np.repeat([[0, 1]], 2, 0).repeat(16, 1), ("batch", "position")))
    for mask in (until, until & Window(3), until & segments & Window(7)):
        found, expected = (
            attention(query, key, value, mask, implementation=name, block=8).array
            for name in ("blockwise", "reference")
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)
        causal = attention(query, key, value, Causal(), implementation="reference").array
        assert np.abs(causal - expected).max() > 0.1
