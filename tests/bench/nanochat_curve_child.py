"""nanochat's side of `bench_nanochat_curve`: its model and its optimizer, in float32. Runs in an environment with
torch.

    python nanochat_curve_child.py CHECKOUT FOLDER

FOLDER has ``settings.json`` and ``batches.npz``. The child answers each line of its input with one line of JSON, as
`step_turns` describes:

- ``weights SEED`` writes the first weights of this seed into ``weights-SEED.npz`` in FOLDER;
- ``train SEED KEPT`` trains from these weights. The answer has the loss of each step, and the held-out loss. The
  weights after each of the first KEPT steps go into ``after-STEP.npz``.

The classes are nanochat's own. The loop and the three schedules are those of its script ``base_train``, which cannot be
imported.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Schedules:
    """``get_lr_multiplier``, ``get_muon_momentum`` and ``get_weight_decay`` of ``base_train``."""

    def __init__(self, steps: int, warmup: int, warmdown: float, final: float) -> None:
        self._steps, self._warmup, self._final = steps, warmup, final
        self._warmdown = round(warmdown * steps)

    def rate(self, step: int) -> float:
        if step < self._warmup:
            return (step + 1) / self._warmup
        if step <= self._steps - self._warmdown:
            return 1.0
        progress = (self._steps - step) / self._warmdown
        return progress + (1 - progress) * self._final

    def momentum(self, step: int) -> float:
        start = self._steps - self._warmdown
        if step < 400:
            return 0.85 + (0.97 - 0.85) * step / 400
        if step >= start:
            return 0.97 + (0.90 - 0.97) * (step - start) / self._warmdown
        return 0.97

    def decay(self, step: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / self._steps))


def main() -> None:
    checkout, folder = map(Path, sys.argv[1:])
    sys.path.insert(0, str(checkout.resolve()))
    answers, sys.stdout = sys.stdout, sys.stderr  # nanochat prints notes
    import torch  # pyright: ignore[reportMissingImports]
    from nanochat.gpt import GPT, GPTConfig  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    settings = json.loads((folder / "settings.json").read_text())
    batches = {
        name: torch.from_numpy(array.astype(np.int64)) for name, array in np.load(folder / "batches.npz").items()
    }
    schedules = Schedules(**settings["schedules"])

    def first_model(seed: int) -> Any:
        torch.manual_seed(seed)
        with torch.device("meta"):
            model: Any = GPT(GPTConfig(**settings["sizes"]))
        model.to_empty(device="cpu")
        model.init_weights()
        return model

    def write(model: Any, name: str) -> None:
        np.savez(folder / f"{name}.npz", **{name: one.detach().numpy() for name, one in model.named_parameters()})

    def weights(seed: int) -> dict[str, Any]:
        write(first_model(seed), f"weights-{seed}")
        return {}

    def train(seed: int, kept: int) -> dict[str, Any]:
        model = first_model(seed)
        optimizer, losses = model.setup_optimizer(**settings["optimizer"]), []
        for step, (tokens, targets) in enumerate(zip(batches["tokens"], batches["targets"], strict=True)):
            loss = model(tokens, targets)
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * schedules.rate(step)
                if group["kind"] == "muon":
                    group["momentum"] = schedules.momentum(step)
                    group["weight_decay"] = settings["optimizer"]["weight_decay"] * schedules.decay(step)
            optimizer.step()
            model.zero_grad(set_to_none=True)
            losses.append(loss.item())
            if step < kept:
                write(model, f"after-{step + 1}")
        held_out = zip(batches["held_out_tokens"], batches["held_out_targets"], strict=True)
        with torch.no_grad():
            total = sum(model(tokens, targets, loss_reduction="sum").item() for tokens, targets in held_out)
        return {"losses": losses, "held_out": total / int((batches["held_out_targets"] >= 0).sum())}

    cases: dict[str, Callable[..., dict[str, Any]]] = {"weights": weights, "train": train}
    print(json.dumps({"torch": torch.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        name, *numbers = line.split()
        print(json.dumps(cases[name](*map(int, numbers))), file=answers, flush=True)


if __name__ == "__main__":
    main()
