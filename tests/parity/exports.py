"""Trains small models and exports them, for `tests.parity.read_exports`: chat models of several kinds of tokenizer, and
a base model.

Beside each exported folder it writes ``<name>.json``, with what Halcyon computes of the folder: ids and score of a
text, and the ids of a prompt and of its most likely continuation, up to the token that ends it.

    python -m tests.parity.exports FOLDER
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import halcyon
from halcyon.inference.chat import ChatPrompts
from halcyon.inference.generating import prompt_ids
from halcyon.inference.likelihood import Likelihoods, Span
from tests.examples.documents import REPOSITORY
from tests.parity.export_texts import MOST_TOKENS, QUESTION, TEXT
from tests.parity.templates.cases import FOLDER as TEMPLATES
from tests.parity.templates.kinds import KINDS
from tests.trainer.weights.folders import llama_tensors, write_folder

CONVERSATIONS = REPOSITORY / "examples/chat-data/conversations.jsonl"
PUBLISHED = {
    "qwen": "qwen3-thinking",
    "llama3": "llama3-tools",
    "metaspace-first": "mistral-ids",
    "phi": "phi-lines",
    "gemma": "gemma-turns",
}
"""Kinds of tokenizers of base models, with the template that each learns."""
WIDTH = 64


def base(folder: Path, kind: str) -> Path:
    """A published model without training, whose tokenizer is of a kind."""
    tokenizer = KINDS[kind]()
    tokens = max(token["id"] for token in tokenizer.document["added_tokens"]) + 1
    tensors = {
        name: 0.05 * value if value.ndim > 1 else np.ones_like(value)
        for name, value in llama_tensors(width=WIDTH, tokens=tokens).items()
    }
    write_folder(
        folder,
        tensors,
        hidden_size=WIDTH,
        vocab_size=tokens,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=None,
    )
    for name, content in tokenizer.files.items():
        (folder / name).write_bytes(content)
    (folder / "chat_template.jinja").write_bytes((TEMPLATES / "jinja" / f"{PUBLISHED[kind]}.jinja").read_bytes())
    return folder


def documents(folder: Path) -> dict[str, dict[str, Any]]:
    """The runs, by name."""
    example = yaml.safe_load((REPOSITORY / "examples/finetune-chat.yaml").read_text(encoding="utf-8"))
    source = {"name": "conversations", "jsonl": {"paths": [str(CONVERSATIONS)]}, "format": {"chat": {}}}
    example["spec"]["data"]["sources"] = [source]
    runs = {"example": example}
    spec = example["spec"] | {
        "data": {"sources": [{"name": "words", "text": {"paths": [str(CONVERSATIONS)]}}]},
        "objective": {"nextToken": {}},
    }
    spec["trainer"] = {"steps": 30, "batchSize": 4, "sequenceLength": 128}
    runs["base"] = example | {"spec": spec}
    capitals = folder / "capitals.jsonl"
    capitals.write_text(
        "".join(line for line in CONVERSATIONS.read_text().splitlines(keepends=True) if '"What is the capital' in line)
    )
    for kind in PUBLISHED:
        origin = str(base(folder / f"base-{kind}", kind))
        spec = example["spec"] | {
            "model": {"family": "huggingFace", "configFile": origin},
            "tokenizer": {"tokenizerJson": {"path": origin}},
            "from": {"huggingFace": {"path": origin}},
            "data": {"sources": [source | {"jsonl": {"paths": [str(capitals)]}}]},
            "optimizer": {"learningRate": 0.005, "schedule": {"cosine": {"warmupSteps": 10}}, "adamw": {}},
            "trainer": {"steps": 100, "batchSize": 4, "sequenceLength": 256},
        }
        runs[kind] = example | {"spec": spec}
    return runs


def export(folder: Path, name: str, document: dict[str, Any]) -> Path:
    """Train a run and export it, with the commands."""
    root = folder / f"root-{name}"
    run = document | {"metadata": {"name": name}}
    run["spec"] = run["spec"] | {"checkpoint": {"root": f"file://{root.absolute()}", "save": {"everySteps": 1000}}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(run))
    for words in (["train", str(folder / f"{name}.yaml")], ["export", "hf", str(root), str(folder / name)]):
        subprocess.run([sys.executable, "-m", "halcyon.commands.main", *words], cwd=REPOSITORY, check=True)
    return folder / name


def expected(folder: Path) -> dict[str, Any]:
    """What Halcyon computes of an exported folder."""
    place = f"hf:{folder}"
    model, tokenizer = halcyon.load(place)
    assert tokenizer is not None
    text = prompt_ids(tokenizer, TEXT)
    (score,) = Likelihoods(model, compute_dtype=np.float32, batch_tokens=4096).scores([Span(text, 1, "the text")])
    template = folder / "chat_template.jinja"
    prompts = ChatPrompts(tokenizer, template.read_text(encoding="utf-8")) if template.exists() else None
    prompt = text if prompts is None else prompts.seen([{"role": "user", "content": QUESTION}])[0]
    (said,) = halcyon.generate(model, tokenizer, [prompt.tolist()], max_tokens=MOST_TOKENS, temperature=0)
    return {
        "text": text.tolist(),
        "nats": -score.log_prob / (len(text) - 1),
        "chat": prompts is not None,
        "prompt": prompt.tolist(),
        "said": list(said.tokens),
        "finish": said.finish,
    }


def main() -> int:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder.absolute()
    folder.mkdir(parents=True)
    for name, document in documents(folder).items():
        found = expected(export(folder, name, document))
        (folder / f"{name}.json").write_text(json.dumps(found))
        sys.stdout.write(f"{name}: {found['nats']:.4f} nats, {len(found['said'])} tokens, {found['finish']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
