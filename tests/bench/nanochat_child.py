"""nanochat's side of `bench_nanochat`: its model, compiled as in its base training, and its optimizer. Runs in an
environment with torch.

    python nanochat_child.py CHECKOUT DEPTH WIDTH HEADS LENGTH BATCH VOCABULARY [WINDOWS [CASE]]

WINDOWS is nanochat's pattern of windows; default: L, none. CASE is the only one that is prepared; default: all. It uses
a GPU if torch sees one.

The cases differ in the optimizer, which is nanochat's own class in both: `muon`, its default groups (Muon for the
matrices of blocks, AdamW for the rest), and `adamw`, AdamW for all parameters. `step_turns` describes the protocol.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def seconds(run: Callable[[], object], wait: Callable[[], object]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    run()
    wait()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    checkout, *sizes = sys.argv[1:]
    depth, width, heads, length, batch, vocabulary = map(int, sizes[:6])
    windows = sizes[6] if len(sizes) > 6 else "L"
    sys.path.insert(0, str(Path(checkout).resolve()))
    answers, sys.stdout = sys.stdout, sys.stderr  # nanochat prints notes
    import torch
    from nanochat.gpt import GPT, GPTConfig
    from nanochat.optim import MuonAdamW

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")  # as its base training does
    torch.manual_seed(0)
    config = GPTConfig(length, vocabulary, depth, heads, heads, width, window_pattern=windows)
    with torch.device("meta"):
        model: Any = GPT(config)
    model.to_empty(device=device)
    model.init_weights()
    model.train()
    parameters = list(model.parameters())
    compiled: Any = torch.compile(model, dynamic=False)
    rule = {"kind": "adamw", "lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    optimizers: dict[str, Any] = {"muon": model.setup_optimizer(), "adamw": MuonAdamW([{"params": parameters, **rule}])}
    tokens = torch.randint(0, vocabulary, (batch, length), device=device)
    targets = torch.roll(tokens, -1, 1)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def step(name: str) -> dict[str, tuple[float, float]]:
        def update() -> None:
            optimizers[name].step()
            model.zero_grad(set_to_none=True)

        gradients = seconds(lambda: compiled(tokens, targets).backward(), wait)
        return {"gradients": gradients, "optimizer": seconds(update, wait)}

    for name in sizes[7:] or optimizers:  # compiles
        step(name)
    counts = {key: int(value) for key, value in model.num_scaling_params().items()}
    facts = {"torch": torch.__version__, "parameters": counts, "in products": int(model.num_matmul_params())}
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(step(line.strip())), file=answers, flush=True)


if __name__ == "__main__":
    main()
