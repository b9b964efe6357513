"""Every family computes what transformers computes: logits, loss, and the gradient of every weight, in float32.

The goldens are tiny models with random weights, whose config.json and tensors are read as an import reads them. Their
rows are longer than the windows, and hold several documents and padding.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models import Inputs
from halcyon.models.parts.norm import RmsNorm, Scaling
from halcyon.models.parts.rotary import Rope, frequencies, magnitude
from halcyon.models.published.config import ConfigReader
from halcyon.step.objectives.next_token import next_token_sums
from halcyon_api.spec.families.rope import RopeScaling
from halcyon_api.spec.model import FAMILIES
from tests.arrays import load_arrays
from tests.trainer.models.cases import named
from tests.trainer.models.parity import FOLDER, NAMES, Golden

TOLERANCE = 2e-5
"""Largest error, as a part of the largest value of the array."""
ONE_OF_EACH_PART = (
    *("llama-yarn-biases", "gpt2-untied", "qwen3-window-tied", "gemma2", "olmo3"),
    *("gpt-oss", "deepseek-v3", "apertus", "qwen3-next", "whisper", "modernbert", "gemma3-images", "qwen2.5-vl"),
)
"""Together they have every part that a family has. The others are further cases."""

CASES = [pytest.param(name, marks=() if name in ONE_OF_EACH_PART else pytest.mark.variant, id=name) for name in NAMES]


def test_every_family_has_a_golden() -> None:
    """That of nanochat is made by the original: see test_nanochat.py. Those without one are in test_forward.py."""
    assert {Golden.load(name).spec.family for name in NAMES} == set(FAMILIES) - {
        "custom",
        "nanochat",
        "backpack",
        "hyena",
    }


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_every_gradient_are_those_of_transformers(name: str, measured: Callable[..., None]) -> None:
    golden = Golden.load(name)
    tokens, targets, segments = (named(golden.arrays[part]) for part in ("tokens", "targets", "segments"))
    counted = golden.arrays["segments"] > 0

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
    def computed(model: Any) -> Any:
        sound = hax.named(golden.arrays["sound"], ("batch", "mel", "position")) if "sound" in golden.arrays else None
        pixels = golden.arrays.get("images")
        images = None if pixels is None else hax.named(pixels, ("batch", "image", "row", "column", "colour"))
        inputs, weights = (
            Inputs(tokens, segments=segments, sound=sound, images=images),
            hax.named(counted.astype(np.float32), ("batch", "position")),
        )
        loss = jax.value_and_grad(lambda model: next_token_sums(model, inputs, targets, weights).loss)
        return model.logits(model(inputs).features).array, loss(model)

    logits, (loss, gradient) = computed(golden.model())
    expected = golden.arrays["logits"][counted]
    of_logits = float(np.abs(np.asarray(logits)[counted] - expected).max() / np.abs(expected).max())
    assert of_logits <= TOLERANCE
    assert float(loss) == pytest.approx(float(golden.arrays["loss"]), rel=TOLERANCE)
    found, expected_gradients = golden.in_file(gradient), golden.named("gradient")
    assert found.keys() == expected_gradients.keys()
    largest = max(float(np.abs(array).max()) for array in expected_gradients.values())
    errors: dict[str, float] = {}
    for weight, array in expected_gradients.items():
        # The bias of keys has no gradient without rotary positions: what remains is rounding of the others.
        scale = max(float(np.abs(array).max()), 0.01 * largest)
        errors[weight] = float(np.abs(found[weight] - array).max()) / scale
        assert errors[weight] <= TOLERANCE, weight
    measured("logits", name, of_logits)
    measured("gradients", name, max(errors.values()))


@pytest.mark.parametrize("name", NAMES)
def test_a_written_config_is_read_as_the_same_section(name: str) -> None:
    """Also in the form of transformers 4, without rope_parameters."""
    golden = Golden.load(name)
    form, section = golden.form, golden.spec
    written = {"architectures": [form.architectures[0]], **form.write(section, 64)}
    older = {key: value for key, value in written.items() if key != "rope_parameters"}
    for document in (written, older):
        again = form.read(form.completed(ConfigReader.parse(json.dumps(document).encode())))
        assert again.sizes() == section.sizes() if hasattr(section, "sizes") else again == section
        assert form.write(again, 64) == form.write(section, 64)


OF_NO_MODEL = {
    *(
        "architectures",
        "model_type",
        "transformers_version",
        "_name_or_path",
        "dtype",
        "vocab_size",
        "use_cache",
        "return_dict",
    ),
    *(
        "output_hidden_states",
        "output_attentions",
        "chunk_size_feed_forward",
        "is_encoder_decoder",
        "problem_type",
        "pretraining_tp",
    ),
    *("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id", "id2label", "label2id"),
}
"""Entries that every class has and that decide nothing that a decoder computes, and those that an export writes for
every family.
"""
NEVER_SET = {
    *(
        "use_bidirectional_attention",
        "add_cross_attention",
        "partial_rotary_factor",
        "classifier_pooling",
        "qk_head_dim",
        "_sliding_window_pattern",
    ),
    *(
        "output_router_logits",
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_first_dropout",
    ),
    *("boi_token_index", "eoi_token_index"),  # the model computes nothing of them
    *("use_weighted_layer_sum", "classifier_proj_size", "apply_spec_augment", "median_filter_width"),
    *("mask_time_prob", "mask_time_length", "mask_time_min_masks"),
    *("mask_feature_prob", "mask_feature_length", "mask_feature_min_masks"),
    *("decoder_start_token_id", "suppress_tokens", "begin_suppress_tokens"),
}
"""Entries that an export leaves out, and an import accepts with the value of the class alone, or computes."""


@pytest.mark.parametrize("name", NAMES)
def test_an_export_has_the_entries_that_transformers_writes(name: str) -> None:
    golden = Golden.load(name)
    expected, section = golden.config.document, golden.spec
    positions = golden.form.completed(golden.config).integer(golden.form.positions)
    written = golden.form.write(section, positions)
    parts = [
        (written.get(part, written), expected[part]) for part in expected if part in ("text_config", "vision_config")
    ]
    parts.append((written, {key: value for key, value in expected.items() if not key.endswith("_config")}))
    for found, entries in parts:
        for key in entries.keys() - OF_NO_MODEL - NEVER_SET:
            if key != "sliding_window" or "sliding_attention" in section.layers_by_type:
                assert found[key] == entries[key], key


@pytest.mark.parametrize("name", NAMES)
def test_an_export_has_the_tensors_that_transformers_writes(name: str) -> None:
    golden = Golden.load(name)
    written = {tensor: list(one.shape) for tensor, one in golden.layout()[1].tensors.items()}
    assert written == json.loads(golden.arrays["saved"].tobytes())


FREQUENCIES = load_arrays(FOLDER / "parts" / "frequencies.npz")


@pytest.mark.parametrize("name", [key.removeprefix("turns ") for key in FREQUENCIES if key.startswith("turns ")])
def test_rotary_frequencies_of_published_models(name: str) -> None:
    settings = json.loads(FREQUENCIES[f"settings {name}"].tobytes())
    pairs, theta = settings.pop("head_size") // 2, settings.pop("rope_theta")
    rope = Rope(theta, RopeScaling(**settings))
    np.testing.assert_allclose(frequencies(rope, pairs), FREQUENCIES[f"turns {name}"], rtol=2e-5)
    assert magnitude(rope) == pytest.approx(float(FREQUENCIES[f"factor {name}"]), rel=1e-6)


@pytest.mark.parametrize("scaling", ["rounded", "wide", "offset"])
def test_norms_in_narrow_types_have_the_bits_of_transformers(scaling: Scaling) -> None:
    golden = load_arrays(FOLDER / "parts" / "norms.npz")
    row, embed = hax.make_axes(row=golden["x"].shape[0], embed=golden["x"].shape[1])
    weight = hax.named(jnp.asarray(golden["weight"]), embed)
    norm = RmsNorm((embed,), 1e-6, weight, scaling)
    found = jax.jit(lambda x: norm(x))(hax.named(jnp.asarray(golden["x"], jnp.bfloat16), (row, embed)))
    assert found.dtype == jnp.bfloat16
    differing = np.asarray(found.array, np.float32) != golden[scaling]
    # The mean is a sum in another order, which may move a value across the border between two neighbours.
    assert differing.mean() < 0.002
    others = [other for other in ("rounded", "wide", "offset") if other != scaling]
    assert all((golden[other] != golden[scaling]).mean() > 0.05 for other in others), (
        "the golden must tell the variants apart"
    )
