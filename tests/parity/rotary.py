"""Rotary positions of config.json in every form, with what transformers computes of each.

The entries are drawn at random, also wrong ones: of another kind of scaling, in both forms, beside the objects and in
them. An import may reject a configuration; if it does not, it must have the frequencies of transformers. ``make
parity`` calls this with ``--check``:

    ~/.cache/halcyon/transformers-…/bin/python -m tests.parity.rotary [--check]
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from tests.parity.configurations import Draw
from tests.parity.rotary_cases import BY_LAYER, FAMILIES, SIZES

GOLDENS = Path(__file__).parents[1] / "trainer/models/goldens/rotary.json"
DRAWS = 40


def entries(draw: Draw) -> dict[str, Any]:
    """The object of rotary positions, in most draws with all that its kind needs."""
    kind = draw.one("default", "default", "linear", "llama3", "yarn", "yarn")
    key = "type" if draw.flag(0.3) else "rope_type"
    found: dict[str, Any] = {key: kind} if draw.flag(0.9) or kind != "default" else {}
    needed = {
        "default": {},
        "linear": {"factor": 4.0},
        "llama3": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    }
    found |= {name: value for name, value in needed[kind].items() if draw.flag(0.95)}
    if kind == "yarn":
        found |= draw.some(beta_fast=draw.one(8.0, 0, None), beta_slow=2.0, truncate=draw.one(True, False))
        found |= (
            draw.some(mscale=0.7, mscale_all_dim=draw.one(0.4, 0.0)) if draw.flag() else draw.some(attention_factor=1.3)
        )
    if draw.flag(0.25):
        found |= draw.one(
            {"attn_factor": 0.5}, {"attn_factor": 1.0}, {"attention_factor": 0.8}, {"mscale_all_dim": 0.6},
            {"factor": 2.0},
            {"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 1.0}, {"original_max_position_embeddings": 8},
            {"truncate": False},
            {"mrope_section": [2, 3, 3]}, {"short_factor": [1.0] * 8}, {"type": "linear"}, {"of_next_year": 3},
            {"beta_fast": None},
        )  # fmt: skip
    return found


def document(family: str, draw: Draw) -> dict[str, Any]:
    """The entries of a config.json that say something of rotary positions."""
    one, theta = entries(draw), draw.one(50.0, 500.0)
    with_theta = one | ({"rope_theta": theta} if draw.flag(0.8) else {})
    form = draw.one("new", "new", "former", "former", "both", "none")
    found: dict[str, Any] = {}
    if form in ("new", "both"):
        found["rope_parameters"] = with_theta
        if family in BY_LAYER and draw.flag(0.8):
            windowed = draw.one(
                {"rope_type": "default", "rope_theta": 900.0}, {"rope_type": "default"}, entries(draw), None
            )
            beside = draw.some(truncate=draw.flag()) if draw.flag(0.3) else {}
            found["rope_parameters"] = {"full_attention": with_theta, "sliding_attention": windowed, **beside}
    if form in ("former", "both"):
        found["rope_scaling"] = one if draw.flag(0.7) else entries(draw)
    if draw.flag(0.6):
        found["rope_theta"] = theta if draw.flag(0.8) else 700.0
    found |= {"original_max_position_embeddings": draw.one(16, 32)} if draw.flag(0.1) else {}
    found |= {"partial_rotary_factor": draw.one(0.5, 1.0)} if draw.flag(0.15) else {}
    if family == "olmo3" and "rope_parameters" not in found:
        found.pop("rope_theta", None)  # version 5 takes it for the full layers only, which version 4 does not do
    return found | (
        {"rope_local_base_freq": draw.one(900.0, 30.0)} if family == "gemma3_text" and draw.flag(0.4) else {}
    )


def computed(family: str, entries: dict[str, Any]) -> dict[str, Any] | None:
    """The frequencies and the factor of each kind of layers, and the scale of scores; None: transformers computes no
    such model.
    """
    settings = json.loads(json.dumps({**SIZES, **FAMILIES[family][1], **entries}))
    try:
        model: Any = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(family, **settings)
        )
    except Exception:
        return None
    rope, found = model.model.rotary_emb, {}
    for kind in ("full_attention", "sliding_attention") if family in BY_LAYER else ("",):
        at = f"{kind}_" if kind else ""
        frequencies, factor = getattr(rope, f"{at}inv_freq"), getattr(rope, f"{at}attention_scaling")
        found[kind or "full_attention"] = {
            "frequencies": [float(f"{one:.7g}") for one in frequencies],
            "factor": float(factor),
        }
    if not all(np.isfinite(one["frequencies"]).all() for one in found.values()):
        return None
    return found | ({"scale": model.model.layers[0].self_attn.scaling} if family == "deepseek_v3" else {})


def main() -> int:
    """Write the goldens, or check that transformers still computes them."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    if "--check" in sys.argv:
        goldens = json.loads(GOLDENS.read_text())
        wrong = [case for case in goldens if computed(case["family"], case["document"]) != case["expected"]]
        sys.stdout.write(
            f"{len(goldens) - len(wrong)} of {len(goldens)} rotary positions have the numbers of transformers\n"
        )
        return bool(wrong)
    cases = []
    for place, family in enumerate(FAMILIES):
        for number in range(DRAWS):
            drawn = document(family, Draw(1000 * place + number))
            cases.append({"family": family, "document": drawn, "expected": computed(family, drawn)})
    GOLDENS.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
