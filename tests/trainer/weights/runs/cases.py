"""The runs whose first step transformers computes too: their models, documents and factors.

Imports nothing of this project's packages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.parity.rows import NO_TOKENS
from tests.parity.weights import computed_integers

LENGTH = 16
"""Positions of a row."""
TRAINED, HELD_OUT = (17, 9, 5, 12), (11, 17, 4, 7)
"""Tokens of each document of the batch, and of each that is held out.

A document is a row, and the rest of the row is padding.
"""

_SMALL: dict[str, Any] = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 32,
    **NO_TOKENS,
}
_GPT2: dict[str, Any] = {
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 32,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
}
_GPT2 |= {"attn_pdrop": 0.0, "tie_word_embeddings": True, **NO_TOKENS}
_QWEN = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 5, "norm_topk_prob": True}


@dataclass(frozen=True)
class Case:
    """A run.

    Attributes:
        kind: ``model_type`` of its config.json.
        vocabulary: Tokens.
        settings: Further entries of its config.json.
        balance: Factor of the routers' balance loss.
        z: Factor of the routers' z-loss.
    """

    kind: str
    vocabulary: int
    settings: dict[str, Any] = field(default_factory=dict)
    balance: float = 0.0
    z: float = 0.0

    @property
    def config(self) -> dict[str, Any]:
        """The entries of config.json."""
        return {
            "model_type": self.kind,
            **self.settings,
            "vocab_size": self.vocabulary,
            "router_aux_loss_coef": self.balance,
        }

    @property
    def begin(self) -> int:
        """The token that begins a document: that of the tokenizer of bytes, or the last one."""
        return 256 if self.vocabulary == 259 else self.vocabulary - 1

    def documents(self, name: str, lengths: tuple[int, ...]) -> list[list[int]]:
        """Documents of these lengths; their first token is `begin`."""
        drawn = (computed_integers(name, sum(lengths)) % np.uint64(self.begin)).tolist()
        found, start = [], 0
        for length in lengths:
            found.append([self.begin, *drawn[start + 1 : start + length]])
            start += length
        return found


CASES = {
    "gpt2-50257": Case("gpt2", 50_257, _GPT2),
    "llama-32001": Case("llama", 32_001, _SMALL | {"tie_word_embeddings": False}),
    "gemma2-259": Case("gemma2", 259, _SMALL | {"tie_word_embeddings": True, "final_logit_softcapping": 3.0}),
    "mixtral-259": Case(
        "mixtral",
        259,
        _SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False},
        balance=0.5,
        z=0.1,
    ),
    "qwen3-moe-32001": Case("qwen3_moe", 32_001, _SMALL | _QWEN | {"tie_word_embeddings": True}, balance=0.3, z=0.05),
}
