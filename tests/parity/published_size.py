"""Writes goldens/parts/published-size.npz: the logits of a tiny Gemma 3 of an image of 896 pixels, computed by
transformers. It needs the environment of the goldens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.parity.weights import computed_weights, in_files
from tests.trainer.models.goldens.cases import CASES

FILE = Path(__file__).parents[1] / "trainer" / "models" / "goldens" / "parts" / "published-size.npz"
SIDE, TOKENS = 896, 256


def main() -> None:
    import torch

    from tests.parity.transformers_models import new_model, weights_of

    kind, settings = CASES["gemma3-images"]
    vision = settings["vision_config"] | {"image_size": SIDE, "patch_size": 14, "num_hidden_layers": 1}
    text = settings["text_config"] | {"max_position_embeddings": 512}
    model = new_model(kind, settings | {"vision_config": vision, "text_config": text, "mm_tokens_per_image": TOKENS})
    names = {name: next(iter(in_files(kind, {name: value}))) for name, value in weights_of(model).items()}
    drawn = computed_weights({names[name]: tuple(value.shape) for name, value in weights_of(model).items()})
    ids, pixels = row()
    with torch.no_grad():
        for name, value in weights_of(model).items():
            value.copy_(torch.from_numpy(drawn[names[name]]))
        logits = model(
            input_ids=torch.from_numpy(ids.astype(np.int64)),
            pixel_values=torch.from_numpy(pixels[0] / 127.5 - 1).to(torch.float32).movedim(-1, 1),
            token_type_ids=torch.from_numpy(ids == model.config.image_token_id).long(),
            use_cache=False,
        ).logits
    document = {"architectures": [type(model).__name__], **model.config.to_dict()}
    np.savez_compressed(
        FILE,
        config=np.frombuffer(json.dumps(document, default=str).encode(), np.uint8),
        logits=logits.numpy()[:, ::8],
    )


def row() -> tuple[np.ndarray, np.ndarray]:
    """A row of tokens with those of an image, and the image: int32 [row, position], uint8 [row, image, ...]."""
    ids = np.full((1, TOKENS + 8), 7, np.int32)
    ids[0, :3], ids[0, 3 + TOKENS :] = (2, 11, 5), (9, 3, 12, 4, 8)
    return ids, np.random.default_rng(6).integers(0, 256, (1, 1, SIDE, SIDE, 3)).astype(np.uint8)


if __name__ == "__main__":
    main()
