"""nanochat's side of `bench_engine` and `bench_evaluation`: its engine and its evaluations. Runs in an environment with
torch and jinja2.

    python nanochat_engine_child.py CHECKOUT DEPTH VOCABULARY LENGTH QUESTIONS

The functions that are timed are nanochat's own: ``Engine.generate``, ``core_eval.evaluate_task``, and the two loops of
``chat_eval``. Only the tokenizer is replaced: texts are numbers of tokens, separated by spaces. QUESTIONS is a JSON
file with the token ids. `step_turns` describes the protocol. It uses a GPU if torch sees one. The cases are ``generate
ROWS``, ``letters``, ``endings`` and ``answers``.
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
    """A tokenizer whose texts are numbers of tokens.

    The model lacks the ids of its special tokens, so these never end a text.
    """

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def encode_special(self, _: str) -> int:
        return self._vocabulary

    def get_bos_token_id(self) -> int:
        return self._vocabulary

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))


class Padding(Numbers):
    """For evaluations, which pad with the token that begins a document: it must be a token of the model."""

    def get_bos_token_id(self) -> int:
        return 0

    def __call__(self, texts: list[str], prepend: int) -> list[list[int]]:
        return [[prepend, *self.encode(text)] for text in texts]

    def render_for_completion(self, conversation: dict[str, Any]) -> list[int]:
        return list(conversation["prompt"])


class Task(list[dict[str, Any]]):
    """Conversations."""

    def evaluate(self, conversation: dict[str, Any], answer: str) -> bool:
        del conversation
        return bool(answer)


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
    from nanochat.core_eval import evaluate_task
    from nanochat.engine import Engine
    from nanochat.gpt import GPT, GPTConfig
    from scripts.chat_eval import run_categorical_eval, run_generative_eval

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
    questions = json.loads(Path(path).read_text())
    engine, padding = Engine(model, Numbers(vocabulary)), Padding(vocabulary)

    def spelled(tokens: list[int]) -> str:
        return " ".join(map(str, tokens))

    letters = Task(
        {"prompt": one["text"], "letters": [str(token) for token in one["letters"]]} for one in questions["letters"]
    )
    prompts = Task({"prompt": prompt} for prompt in questions["answers"])
    endings = [
        {"query": spelled(one["text"]), "choices": [spelled(end) for end in one["ends"]], "gold": 0}
        for one in questions["endings"]
    ]
    of_core = {"task_type": "multiple_choice", "num_fewshot": 0, "continuation_delimiter": " "}

    def generate(rows: int) -> dict[str, tuple[float, float]]:
        settings = questions["generate"]
        columns = engine.generate(settings["prompt"], rows, settings["tokens"], settings["temperature"])
        first = timed(lambda: next(columns))
        return {"first": first, "later": timed(lambda: list(columns))}

    def run(case: str) -> dict[str, tuple[float, float]]:
        name, _, rows = case.partition(" ")
        quiet = contextlib.redirect_stdout(io.StringIO())
        with quiet:
            if name == "generate":
                return generate(int(rows))
            if name == "letters":
                size = questions["batch"]
                return {"all": timed(lambda: run_categorical_eval(letters, padding, model, size))}
            if name == "endings":
                return {"all": timed(lambda: evaluate_task(model, padding, endings, torch.device(device), of_core))}
            tokens = questions["tokens"]
            return {"all": timed(lambda: run_generative_eval(prompts, padding, model, engine, 1, tokens, 0.0, 50))}

    facts = {"torch": torch.__version__, "parameters": sum(one.numel() for one in model.parameters())}
    print(json.dumps(facts | {"in products": int(model.num_matmul_params())}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(line.strip())), file=answers, flush=True)


if __name__ == "__main__":
    main()
