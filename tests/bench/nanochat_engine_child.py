"""nanochat's side of `bench_engine`: its engine. Runs in an environment with torch and jinja2.

    python nanochat_engine_child.py CHECKOUT DEPTH VOCABULARY LENGTH QUESTION

The function that is timed is nanochat's own ``Engine.generate``. Only the tokenizer is replaced. QUESTION is a JSON file
with the token ids of a prompt, the number of tokens of a text, and the temperature. `step_turns` describes the protocol.
It uses a GPU if torch sees one. A case is a number of rows.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

_UNUSED = ("rustbpe", "tiktoken", "pyarrow", "pyarrow.parquet", "requests")
"""Packages that nanochat imports and that these cases do not use."""


class Numbers:
    """A tokenizer of which the engine needs only special tokens. The model lacks their ids, so they never end a text."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def encode_special(self, _: str) -> int:
        return self._vocabulary

    def get_bos_token_id(self) -> int:
        return self._vocabulary


def timed(run: Callable[[], object]) -> tuple[float, float]:
    import torch

    wall, processor = time.perf_counter(), time.process_time()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    checkout, *sizes, path = sys.argv[1:]
    depth, vocabulary, length = map(int, sizes)
    sys.path.insert(0, str(Path(checkout).resolve()))
    answers, sys.stdout = sys.stdout, sys.stderr  # nanochat prints notes
    for name in _UNUSED:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
    import torch
    from nanochat.engine import Engine
    from nanochat.gpt import GPT, GPTConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    width = -(-depth * 64 // 128) * 128
    with torch.device("meta"):
        model: Any = GPT(GPTConfig(length, vocabulary, depth, width // 128, width // 128, width))
    model.to_empty(device=device)
    model.init_weights()
    model.eval()
    question = json.loads(Path(path).read_text())
    engine = Engine(model, Numbers(vocabulary))

    def generate(rows: int) -> dict[str, tuple[float, float]]:
        with contextlib.redirect_stdout(io.StringIO()):
            columns = engine.generate(question["prompt"], rows, question["tokens"], question["temperature"])
            first = timed(lambda: next(columns))
            return {"first": first, "later": timed(lambda: list(columns))}

    facts = {"torch": torch.__version__, "parameters": sum(one.numel() for one in model.parameters())}
    print(json.dumps(facts | {"in products": int(model.num_matmul_params())}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(generate(int(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
