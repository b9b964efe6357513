"""Adapters as peft writes them, on the models of `tests.trainer.weights.goldens`, with the logits that peft computes
with each.

Each case is a LoraConfig and changes of its adapter_config.json, which peft reads again from the folder: so that file
alone decides the logits. ``make parity`` calls this with ``--check``, in an environment with transformers, torch and
peft:

    ~/.cache/halcyon/transformers-…/bin/python -m tests.parity.adapters [--check]
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from tests.parity.dora import dora_with_dropout

BASES = Path(__file__).parents[1] / "trainer/weights/goldens"
GOLDENS = BASES / "adapters"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SQUARE = {"target_modules": ["attn.c_proj", "c_fc"], "use_dora": True}

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "patterns": ("llama", {"target_modules": ["q_proj", "up_proj", "down_proj"], "use_rslora": True, "lora_alpha": 3,
        "rank_pattern": {"q_proj": 4, r"layers\.1\..*up_proj": 3},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 5, "q_proj": 7, "own_proj": 9, "down": 11}}, {}),
    "open-patterns": ("llama", {"target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"q)|(.*v_pro": 31,
    "x|q_proj": 2}}, {}),
    "layers": ("llama", {"target_modules": ["k_proj", "gate_proj"], "layers_to_transform": [1],
    "layers_pattern": "layers"}, {}),
    "excluded": ("llama", {"target_modules": r".*_proj", "exclude_modules": r".*\.(mlp\.\w+|self_attn\.[kvo]_proj)"},
    {}),
    "all-linear": ("llama", {"target_modules": ALL}, {"target_modules": "all-linear"}),
    "head": ("llama", {"target_modules": ["lm_head", "o_proj"]}, {}),
    "dora-inputs-first": ("llama", {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    {"fan_in_fan_out": True}),
    "gpt2-dora": ("gpt2", {**SQUARE, "fan_in_fan_out": True}, {}),
    "gpt2-dora-outputs-first": ("gpt2", {**SQUARE, "fan_in_fan_out": True}, {"fan_in_fan_out": False}),
    "no-alpha": ("llama", {"target_modules": ["v_proj"]}, {"lora_alpha": None}),
    "zero-alpha": ("llama", {"target_modules": ["v_proj"], "lora_alpha": 0}, {}),
    "negative-alpha": ("llama", {"target_modules": ["v_proj"], "lora_alpha": -1.5}, {}),
    **{f"init-{name}": ("llama", {"target_modules": ["q_proj", "down_proj"]}, {"init_lora_weights": name})
       for name in ("gaussian", "orthogonal", "eva", "mica")},
}  # fmt: skip
"""The base, the arguments of LoraConfig, and changes of adapter_config.json; None deletes a field."""


def write(folder: Path, case: str) -> None:
    """Write a case: the adapter, the tokens and the logits."""
    base, arguments, changes = CASES[case]
    torch.manual_seed(len(case))
    model = get_peft_model(loaded(base), LoraConfig(**{"r": 2, "lora_alpha": 6, "task_type": "CAUSAL_LM", **arguments}))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(value.abs() + 0.2 if "magnitude" in name else 0.3 * torch.randn_like(value))
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    config = {**json.loads(path.read_text()), **changes, "base_model_name_or_path": base}
    deleted = {name for name, value in changes.items() if value is None}
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in deleted}))
    tokens = torch.arange(3, 11)[None]
    with torch.no_grad():
        computed = PeftModel.from_pretrained(loaded(base), str(folder)).eval()(tokens).logits
        plain = loaded(base)(tokens).logits
    np.savez(
        folder / "logits.npz",
        tokens=tokens.numpy(),
        logits=computed.numpy(),
        base=np.abs((computed - plain).numpy()).max(),
    )


def loaded(base: str) -> Any:
    """A base model in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        BASES / base, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def same(one: Path, other: Path) -> bool:
    """Whether two folders of a case have the same logits and the same adapter_config.json."""
    here, there = (np.load(folder / "logits.npz")["logits"] for folder in (one, other))
    configs = (
        {**json.loads((folder / "adapter_config.json").read_text()), "target_modules": None} for folder in (one, other)
    )
    return float(np.abs(here - there).max()) <= 1e-5 * float(np.abs(there).max()) and next(configs) == next(configs)


class Masked(torch.nn.Module):
    """Dropout with an explicit mask."""

    def __init__(self, factors: torch.Tensor) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factors


def dropout_differs() -> float:
    """How much peft's DoRA with dropout differs from `dora_with_dropout`, as a share of the output."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5, bias=True))
    adapted = get_peft_model(
        model, LoraConfig(r=2, lora_alpha=3, lora_dropout=0.5, use_dora=True, target_modules=["0"])
    )
    layer, x = adapted.base_model.model[0], torch.randn(6, 7)
    factors = (torch.rand(6, 7) > 0.5).float() * 2
    layer.lora_dropout["default"] = Masked(factors)
    parts = (
        layer.lora_A["default"].weight,
        layer.lora_B["default"].weight,
        layer.lora_magnitude_vector["default"].weight,
    )
    with torch.no_grad():
        parts[1].copy_(torch.randn_like(parts[1]))
        parts[2].copy_(parts[2] * 1.5)
        found = (layer.train()(x) - layer.base_layer.bias).numpy()
    weight = layer.base_layer.weight.detach().numpy().T
    down, up, magnitude = (each.detach().numpy().T for each in parts)
    expected = dora_with_dropout(x.numpy(), factors.numpy(), weight, down, up, magnitude, 3 / 2)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def main() -> int:
    """Write the goldens, or check that peft still computes them."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if "--check" not in sys.argv:
        for case in CASES:
            write(GOLDENS / case, case)
        return 0
    with tempfile.TemporaryDirectory() as made:
        for case in CASES:
            write(Path(made) / case, case)
        changed = [case for case in CASES if not same(Path(made) / case, GOLDENS / case)]
    sys.stdout.write(f"{len(CASES) - len(changed)} of {len(CASES)} adapters have the logits of peft\n")
    for case in changed:
        sys.stdout.write(f"{case}: peft does not compute the logits of the golden\n")
    if (difference := dropout_differs()) > 1e-5:
        sys.stdout.write(f"peft computes DoRA with dropout otherwise: a difference of {difference:.1g}\n")
        return 1
    return bool(changed)


if __name__ == "__main__":
    sys.exit(main())
