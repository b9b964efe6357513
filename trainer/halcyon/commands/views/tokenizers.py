"""Compares the compression of tokenizers: bytes of text per token, on several kinds of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from halcyon.tokenizer.protocol import Tokenizer


@dataclass(frozen=True, slots=True)
class Compression:
    """Compression of one text by a tokenizer."""

    size_bytes: int
    tokens: int
    lossless: bool
    """Whether decoding returns exactly the text."""

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per token; more is better. NaN without tokens."""
        return self.size_bytes / self.tokens if self.tokens else float("nan")


def compress(tokenizer: Tokenizer, text: str) -> Compression:
    """Encode a text, decode it again, and measure."""
    ids = tokenizer.encode(text)
    return Compression(len(text.encode()), int(ids.size), tokenizer.decode(ids) == text)


def compression_table(tokenizers: Mapping[str, Tokenizer], texts: Mapping[str, str]) -> Table:
    """Bytes per token of each tokenizer on each text.

    The best value of a row is bold; ``~`` marks text that decoding does not return.
    """
    table = Table(
        title="Bytes of text per token (more is better)", caption="~ text that decoding does not give back exactly"
    )
    table.add_column("text")
    table.add_column("bytes", justify="right")
    for name, tokenizer in tokenizers.items():
        table.add_column(f"{name}\n{tokenizer.vocab_size:,} tokens", justify="right")
    for kind, text in texts.items():
        results = [compress(tokenizer, text) for tokenizer in tokenizers.values()]
        best = max((result.bytes_per_token for result in results), default=0.0)
        table.add_row(kind, f"{len(text.encode()):,}", *(_cell(result, best, among=len(results)) for result in results))
    return table


def _cell(result: Compression, best: float, among: int) -> str:
    words = f"{result.bytes_per_token:.2f}{'' if result.lossless else '~'}"
    return f"[bold]{words}[/bold]" if among > 1 and np.isclose(result.bytes_per_token, best) else words
