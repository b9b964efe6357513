"""The rows of tokens with which models of transformers are compared, and what their configurations have in common."""

from __future__ import annotations

LENGTH = 14
DOCUMENTS = ((14,), (6, 5))
"""Lengths of the documents of each row; the rest is padding."""
NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
"""Entries of a configuration that names no special tokens: torch would give the embedding of padding no gradient."""
