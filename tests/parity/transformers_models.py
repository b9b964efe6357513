"""Random models of transformers: how they are made, what they compute, and the names of their tensors in files.

`tests.parity.draw` and the goldens of `tests.trainer.models` use it, in an environment with transformers and torch. It
imports nothing of this project.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers

from tests.parity.rows import DOCUMENTS


def new_model(kind: str, settings: Mapping[str, Any]) -> Any:
    """A model in float32, of a configuration whose entries are those of config.json."""
    config = transformers.AutoConfig.for_model(kind, **json.loads(json.dumps(settings)))
    config._attn_implementation = config._experts_implementation = "eager"
    found = transformers.AutoModelForSpeechSeq2Seq if config.is_encoder_decoder else model_class(kind)
    if sees(config):
        config.text_config._attn_implementation = config.vision_config._attn_implementation = "eager"
        found = transformers.AutoModelForImageTextToText
    return found.from_config(config, attn_implementation="eager").to(torch.float32).eval()


def sounds(config: Any) -> np.ndarray:
    """A sound for each row of a model that hears: float32 [row, mel, frame]."""
    frames = 2 * config.max_source_positions
    return np.random.default_rng(3).standard_normal((len(DOCUMENTS), config.num_mel_bins, frames)).astype(np.float32)


def sees(config: Any) -> bool:
    """Whether a model sees images."""
    return getattr(config, "vision_config", None) is not None


def images(config: Any, side: int = 0) -> np.ndarray:
    """Two images for each row: uint8 [row, image, row of pixels, column, colour]. By default they have 4 tokens."""
    side = side or getattr(config.vision_config, "image_size", 4 * config.vision_config.patch_size)
    return np.random.default_rng(4).integers(0, 256, (len(DOCUMENTS), 2, side, side, 3)).astype(np.uint8)


def prepared(config: Any, images: np.ndarray) -> dict[str, torch.Tensor]:
    """Images [image, row of pixels, column, colour] as the processor of a model gives them to it."""
    if config.model_type == "gemma3":
        pixels = torch.from_numpy(images / 127.5 - 1).to(torch.float32)
        return {"pixel_values": pixels.movedim(-1, 1)}
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    area = images.shape[1] * images.shape[2]
    size = {"shortest_edge": area, "longest_edge": area}
    processor = Qwen2VLImageProcessorPil(patch_size=config.vision_config.patch_size, size=size)
    return dict(processor(list(images), return_tensors="pt"))


def large_images(model: Any) -> dict[str, np.ndarray]:
    """Images of 36 tokens, and what a tower with windows of 16 makes of them."""
    if model.config.model_type != "qwen2_5_vl":
        return {}
    large = images(model.config, 12 * model.config.vision_config.patch_size)[:, 0]
    given = prepared(model.config, large)
    seen = model.model.visual(given["pixel_values"], given["image_grid_thw"]).pooler_output
    return {"large": large, "large seen": seen.detach().numpy()}


IMAGES = (((1, 5), (8, 12)), ((2, 6),))
"""Where the tokens of the images of each row begin and end."""


def with_images(config: Any, tokens: np.ndarray) -> np.ndarray:
    """Rows with the tokens of images, and nowhere else their id."""
    token = config.image_token_id
    found = np.where(tokens == token, token + 1, tokens)
    for row, places in enumerate(IMAGES):
        for start, end in places:
            found[row, start:end] = token
    return found


def model_class(kind: str) -> Any:
    """The class of transformers that makes models with the output head of this type."""
    return transformers.AutoModelForMaskedLM if kind == "modernbert" else transformers.AutoModelForCausalLM


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """All parameters, and the corrections of routers, by name."""
    corrections = {name: value for name, value in model.named_buffers() if name.endswith("e_score_correction_bias")}
    return dict(model.named_parameters()) | corrections


def fill(
    model: Any, noise: np.random.Generator, dtype: type[np.floating[Any]], *, offset: bool
) -> dict[str, np.ndarray]:
    """Give a model random weights.

    Args:
        model: The model.
        noise: Where they come from.
        dtype: They are rounded to this type.
        offset: Whether norms have a factor of 1 + weight.

    Returns:
        The weights by name.
    """
    weights = weights_of(model)
    drawn = {name: _random(name, tuple(value.shape), noise, offset).astype(dtype) for name, value in weights.items()}
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(torch.from_numpy(drawn[name].astype(np.float32)))
    return drawn


def _random(name: str, shape: tuple[int, ...], noise: np.random.Generator, offset: bool) -> np.ndarray:
    drawn = noise.standard_normal(shape)
    if "norm" in name or ".ln_" in name:
        return 0.2 * drawn + (0.0 if name.endswith("bias") or (offset and "vision_tower" not in name) else 1.0)
    return drawn * (0.2 if name.endswith("bias") else 0.3)


def greedy(model: Any, tokens: np.ndarray) -> np.ndarray:
    """The tokens with the greatest logits, after the first two of each row: int32 [row, position]."""
    found = torch.from_numpy(tokens[:, :2].astype(np.int64))
    while found.shape[1] < tokens.shape[1]:
        logits = model(input_features=torch.from_numpy(sounds(model.config)), decoder_input_ids=found).logits
        found = torch.cat((found, logits[:, -1:].argmax(-1)), 1)
    return found[:, 2:].numpy().astype(np.int32)


def outputs(model: Any, tokens: np.ndarray) -> Iterator[tuple[int, int, slice, torch.Tensor]]:
    """Row, number, positions and logits of each document.

    Each is computed alone, so they depend on no mask of segments. A row with a sound or images is one document.
    """
    if model.config.is_encoder_decoder:
        for row, lengths in enumerate(DOCUMENTS):
            part = slice(0, sum(lengths))
            ids = torch.from_numpy(tokens[row, part].astype(np.int64))[None]
            sound = torch.from_numpy(sounds(model.config)[row])[None]
            yield row, 1, part, model(input_features=sound, decoder_input_ids=ids, use_cache=False).logits[0]
        return
    if sees(model.config):
        for row, lengths in enumerate(DOCUMENTS):
            part = slice(0, sum(lengths))
            ids = torch.from_numpy(tokens[row, part].astype(np.int64))[None]
            given = prepared(model.config, images(model.config)[row, : len(IMAGES[row])])
            types = "token_type_ids" if model.config.model_type == "gemma3" else "mm_token_type_ids"
            given[types] = (ids == model.config.image_token_id).long()
            yield row, 1, part, model(input_ids=ids, **given, use_cache=False).logits[0]
        return
    no_cache = {} if model.config.model_type == "modernbert" else {"use_cache": False}
    for row, lengths in enumerate(DOCUMENTS):
        start = 0
        for number, length in enumerate(lengths, 1):
            part = slice(start, start + length)
            ids = torch.from_numpy(tokens[row, part].astype(np.int64))[None]
            positions = torch.arange(start, start + length)[None]
            yield row, number, part, model(input_ids=ids, position_ids=positions, **no_cache).logits[0]
            start += length


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Within, what transformers computes in float32 by name is computed in float64: norms, softmaxes, rotary positions
    and states.
    """
    with (
        mock.patch.multiple(torch, float32=torch.float64, float=torch.float64),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        yield


def computed(model: Any, tokens: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """The rows, what a model computes of them, and the sum of the cross entropies.

    Gradients of that sum stay in the parameters.
    """
    segments = np.zeros(tokens.shape, np.int32)
    logits = np.zeros((*tokens.shape, model.config.get_text_config().vocab_size))
    total = torch.zeros(())
    for row, number, part, found in outputs(model, tokens):
        total = total + torch.nn.functional.cross_entropy(found, torch.from_numpy(targets[row, part]), reduction="sum")
        segments[row, part], logits[row, part] = number, found.detach().numpy()
    total.backward()
    return {
        "tokens": tokens.astype(np.int32),
        "targets": targets.astype(np.int32),
        "segments": segments,
        "logits": logits.astype(total.detach().numpy().dtype),
        "loss": total.detach().numpy(),
    }


def gradients(weights: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The gradients of weights by name; zeros without one."""
    return {
        name: np.zeros(value.shape, np.float32) if value.grad is None else value.grad.numpy()
        for name, value in weights.items()
    }
