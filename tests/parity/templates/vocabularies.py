# ruff: noqa: S106 - special tokens are no passwords
"""Trains the small vocabularies of `kinds`, and writes vocabularies.json. They are trained once, so that the goldens
stay as they are.

python -m tests.parity.templates.vocabularies
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.parity.templates.cases import CONVERSATIONS, FOLDER, TEXTS

VOCABULARIES = FOLDER / "vocabularies.json"


def texts() -> Iterator[str]:
    """What the vocabularies are trained on: the words of the cases."""
    yield from TEXTS.values()
    for case in CONVERSATIONS.values():
        yield from (message["content"] for message in case["messages"] if message.get("content"))
        yield json.dumps(case, ensure_ascii=False)


def byte_level() -> Tokenizer:
    """BPE on bytes, split as GPT-2 splits."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts(), trainers.BpeTrainer(vocab_size=560, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def pieces() -> Tokenizer:
    """BPE on characters, as SentencePiece trains it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(vocab_size=360, limit_alphabet=100, show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def unigram() -> Tokenizer:
    """Pieces with scores, as SentencePiece trains them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.train_from_iterator(
        texts(), trainers.UnigramTrainer(vocab_size=320, unk_token="<unk>", show_progress=False)
    )
    return tokenizer


def words() -> Tokenizer:
    """WordPiece."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=360, limit_alphabet=90, special_tokens=["[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def stored(tokenizer: Tokenizer) -> Mapping[str, Any]:
    """What `kinds` needs: the pieces by id, and the merges."""
    model = json.loads(tokenizer.to_str())["model"]
    if isinstance(model["vocab"], list):
        return {"pieces": [[piece, round(score, 4)] for piece, score in model["vocab"]]}
    found = sorted(model["vocab"], key=model["vocab"].get)
    return {"pieces": found} | ({"merges": [" ".join(pair) for pair in model["merges"]]} if "merges" in model else {})


def main() -> None:
    found = {made.__name__: stored(made()) for made in (byte_level, pieces, unigram, words)}
    lines = (
        f" {json.dumps(name)}: {json.dumps(vocabulary, separators=(',', ':'))}" for name, vocabulary in found.items()
    )
    Path(VOCABULARIES).write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
