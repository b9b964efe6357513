"""Writes goldens.json beside it: what transformers computes of the first step of each run of `cases`, in float64.

For each run: the shapes of the model's weights (`tests.parity.weights` has their values), the loss, the gradient norm
of what is minimised, the losses of the routers, and the loss of the documents that are held out. Transformers gets rows
that are padded, with the mask of their padding. Its balance loss is that of each row and layer alone, over the tokens
whose target counts, as the page on experts describes.

It runs in the environment of `make parity`, which calls it with ``--check``:

    ~/.cache/halcyon/transformers-…/bin/python -m tests.trainer.weights.runs.make
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.parity.transformers_models import in_float64, new_model, weights_of
from tests.parity.weights import computed_weights
from tests.trainer.weights.runs.cases import CASES, HELD_OUT, LENGTH, TRAINED, Case

GOLDENS = Path(__file__).parent / "goldens.json"
TOLERANCE = 1e-6


def filled(case: Case) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """The model, in float64, and the shapes of its weights."""
    config = case.config
    model = new_model(config.pop("model_type"), config)
    weights = weights_of(model)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    with torch.no_grad():
        for name, value in computed_weights(shapes).items():
            weights[name].copy_(torch.from_numpy(value))
    return model.double(), shapes


def padded(documents: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids, and the mask of what is no padding: [row, position].

    A row has one more token than `LENGTH`: the last target.
    """
    ids, mask = torch.zeros(2, len(documents), LENGTH + 1, dtype=torch.long)
    for row, document in enumerate(documents):
        ids[row, : len(document)], mask[row, : len(document)] = torch.tensor(document), 1
    return ids, mask


def results(case: Case, model: Any, documents: list[list[int]]) -> dict[str, torch.Tensor]:
    """The loss and the losses of routers."""
    ids, mask = padded(documents)
    experts = {"output_router_logits": True} if case.balance else {}
    outputs = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=False, **experts)
    counts = mask[:, 1:].bool()
    found = {"loss": torch.nn.functional.cross_entropy(outputs.logits[counts], ids[:, 1:][counts])}
    if case.balance:
        found |= routers(case, outputs.router_logits, counts)
    return found


def routers(case: Case, logits: Any, counts: torch.Tensor) -> dict[str, torch.Tensor]:
    """The balance loss and the z-loss: means over layers and over rows, which count with their tokens."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    chosen = case.settings["num_experts_per_tok"]
    balance, z, tokens = torch.zeros(()), torch.zeros(()), counts.sum(1)
    for layer in logits:
        of_layer = layer.reshape(len(counts), LENGTH, -1)
        for row, of_row in enumerate(of_layer):
            alone = load_balancing_loss_func((of_row,), of_row.shape[-1], chosen, counts[row : row + 1].long())
            balance = balance + alone / chosen * tokens[row]
        z = z + (torch.logsumexp(of_layer[counts], -1) ** 2).sum()
    return {"load_balance_loss": balance / len(logits) / tokens.sum(), "router_z_loss": z / len(logits) / tokens.sum()}


def golden(case: Case) -> dict[str, Any]:
    """The golden of a run."""
    model, shapes = filled(case)
    with in_float64():
        found = results(case, model, case.documents("trained", TRAINED))
        minimised = found["loss"]
        if case.balance:
            chosen = case.settings["num_experts_per_tok"]
            minimised = minimised + case.balance * chosen * found["load_balance_loss"] + case.z * found["router_z_loss"]
        minimised.backward()
        squares = [(value.grad**2).sum() for value in model.parameters() if value.grad is not None]
        with torch.no_grad():
            validation = results(case, model, case.documents("held out", HELD_OUT))["loss"]
    numbers = found | {"gradient_norm": torch.stack(squares).sum().sqrt(), "evaluation": validation}
    return {"shapes": shapes, **{name: float(value.detach()) for name, value in numbers.items()}}


def main() -> None:
    found = {name: golden(case) for name, case in CASES.items()}
    if "--check" not in sys.argv:
        lines = (f"  {json.dumps(name)}: {json.dumps(numbers)}" for name, numbers in found.items())
        GOLDENS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    for name, expected in json.loads(GOLDENS.read_text()).items():
        for key, value in expected.items():
            if key != "shapes" and abs(found[name][key] - value) > TOLERANCE * abs(value):
                sys.exit(f"{name}: {key} is {found[name][key]}, and {value} in {GOLDENS}")


if __name__ == "__main__":
    main()
