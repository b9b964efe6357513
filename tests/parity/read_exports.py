"""Reads the folders of `tests.parity.exports` with transformers: the same ids and score of a text, and the same
continuation up to its end.

It runs in an environment with transformers and torch (see `make parity`), and imports nothing of this project but its
tests.

    ~/.cache/halcyon/transformers-…/bin/python -m tests.parity.read_exports FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from tests.parity.export_texts import MOST_TOKENS, QUESTION, TEXT

TOLERANCE = 1e-4


def differences(folder: Path, expected: dict[str, Any]) -> Iterator[str]:
    """What transformers computes otherwise of an exported folder, each as a sentence."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    )
    text = tokenizer(TEXT, return_tensors="pt").input_ids
    if text[0].tolist() != expected["text"]:
        yield f"the ids of the text are {text[0].tolist()}, not {expected['text']}"
    with torch.no_grad():
        scores = model(text).logits[0, :-1].log_softmax(-1)
    nats = -scores.gather(1, text[0, 1:, None]).mean().item()
    if abs(nats - expected["nats"]) > TOLERANCE:
        yield f"the text has {nats:.6f} nats per token, not {expected['nats']:.6f}"
    prompt = text
    if expected["chat"]:
        messages = [{"role": "user", "content": QUESTION}]
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).input_ids
    if prompt[0].tolist() != expected["prompt"]:
        yield f"the ids of the prompt are {prompt[0].tolist()}, not {expected['prompt']}"
    said = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=MOST_TOKENS, do_sample=False)
    said = said[0, prompt.shape[1] :].tolist()
    if said != expected["said"]:
        yield f"it says {said}, not {expected['said']}"
    if expected["chat"] and (expected["finish"] != "stop" or len(said) >= MOST_TOKENS):
        yield f"its answer does not end within {MOST_TOKENS} tokens"


def main() -> int:
    """Print each difference. Fails too if a folder has no answer of Halcyon beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    logging.set_verbosity_error()
    files = sorted(folder.glob("*.json"))
    found = [
        f"{file.stem}: {one}" for file in files for one in differences(folder / file.stem, json.loads(file.read_text()))
    ]
    sys.stdout.write(
        "".join(f"{one}\n" for one in found) + f"{len(files)} exported folders, {len(found)} differences\n"
    )
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main())
