"""Draws random configurations of every family, and computes with transformers what `tests.parity.compare` compares.

It runs in an environment with transformers and torch (see `make parity`), and imports nothing of this project but its
tests. For each draw it writes a folder as ``save_pretrained`` does, in half of the draws with the keys of transformers
4 for rotary positions. It then loads the folder again, so that config.json alone decides the numbers, and writes
``expected.npz``: tokens, logits, and the gradient of every weight. These are computed in float64. The largest error of
transformers in float32 is there too, because some draws amplify rounding.

``--check`` loads the folders that `tests.parity.compare` exported, and compares their logits with those of the first
model.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.parity.configurations import FAMILIES, Draw, former
from tests.parity.errors import errors
from tests.parity.rows import DOCUMENTS, LENGTH
from tests.parity.transformers_models import computed, fill, gradients, in_float64, model_class, new_model, outputs
from tests.parity.weights import in_files

TOLERANCE = 1e-4


def loaded(folder: Path) -> Any:
    """The model of a folder, in float32."""
    model = model_class(transformers.AutoConfig.from_pretrained(folder).model_type).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval()


def write_draw(folder: Path, family: str, seed: int) -> None:
    """Write one folder."""
    kind, settings_of = FAMILIES[family]
    draw = Draw(seed)
    model = new_model(kind, settings_of(draw))
    fill(model, draw.noise, np.float32, offset=family.startswith("gemma"))
    model.save_pretrained(folder)
    # For OLMo 3, transformers 5 takes the base of the older form for the full layers only, which version 4 does not do.
    if draw.flag() and family not in ("gpt2", "olmo3"):
        path = folder / "config.json"
        path.write_text(json.dumps(former(family, json.loads(path.read_text())), indent=2))
    model = loaded(folder)
    tokens, targets = draw.noise.integers(0, model.config.vocab_size, (2, len(DOCUMENTS), LENGTH))
    rounded, wide = results(kind, model, tokens, targets), loaded(folder).double()
    with in_float64():
        truth = results(kind, wide, tokens, targets)
    np.savez(folder / "expected.npz", **truth, rounding=np.float32(max(errors(rounded, truth).values())))


def results(kind: str, model: Any, tokens: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """The rows, what a new model computes of them, and the gradient of each weight, in the type of the weights."""
    found = computed(model, tokens, targets)
    of_weights = in_files(kind, gradients(dict(model.named_parameters())))
    return found | {f"gradient {name}": value for name, value in of_weights.items()}


def check(folder: Path) -> bool:
    """Whether an exported model computes the logits of the model that was imported."""
    expected = np.load(folder / "expected.npz")
    model = loaded(folder / "exported").double()
    with torch.no_grad(), in_float64():
        found = list(outputs(model, expected["tokens"]))
    largest = np.abs(expected["logits"]).max()
    error = (
        max(float(np.abs(one.numpy() - expected["logits"][row, part]).max()) for row, _, part, one in found) / largest
    )
    if error > TOLERANCE:
        sys.stdout.write(f"{folder.name}: exported logits differ by {error:.1e} of the largest\n")
    return error <= TOLERANCE


def main() -> int:
    """Draw, or check the exports of the folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draws", type=int, default=2, help="configurations of each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("families", nargs="*", default=[*FAMILIES])
    given = parser.parse_intermixed_args()
    if unknown := [family for family in given.families if family not in FAMILIES]:
        parser.error(f"there is no family {unknown[0]}; the families are {', '.join(FAMILIES)}")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    if given.check:
        folders = sorted(path.parent for path in given.folder.glob("*/exported"))
        failed = sum(not check(folder) for folder in folders)
        sys.stdout.write(f"{len(folders) - failed} of {len(folders)} exports have the logits of the imported model\n")
        return failed > 0 or not folders
    drawn: set[str] = set()
    for number in range(given.seed, given.seed + given.draws):
        for place, family in enumerate(given.families):
            folder = given.folder / f"{family}-{number}"
            try:
                write_draw(folder, family, 1000 * number + place)
                drawn.add(family)
            except Exception:
                sys.stdout.write(
                    f"{folder.name}: transformers computes no such model: {traceback.format_exc(limit=-1)}\n"
                )
    missing = [family for family in given.families if family not in drawn]
    for family in missing:
        sys.stdout.write(
            f"{family}: transformers computes none of its models, so nothing is compared; draw more, or with another "
            "seed\n"
        )
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
