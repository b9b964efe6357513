"""A small model of each family, for tests that train one: `spec.model` by family."""

from __future__ import annotations

from typing import Any

_SIZES: dict[str, Any] = {"hiddenSize": 32, "intermediateSize": 48, "numAttentionHeads": 4, "numKeyValueHeads": 2}
_ROUTED: dict[str, Any] = {"nRoutedExperts": 8, "numExpertsPerTok": 2, "moeIntermediateSize": 16}
_EXPERTS: dict[str, Any] = {"numExperts": 8, "numExpertsPerTok": 2, "moeIntermediateSize": 16}
_LATENT: dict[str, Any] = {
    "qLoraRank": 16,
    "kvLoraRank": 16,
    "qkNopeHeadDim": 8,
    "qkRopeHeadDim": 8,
    "vHeadDim": 8,
    "numKeyValueHeads": 4,
}
_DELTA: dict[str, Any] = {
    "linearNumKeyHeads": 2,
    "linearNumValueHeads": 4,
    "linearKeyHeadDim": 8,
    "linearValueHeadDim": 8,
    "headDim": 8,
}


def llama(layers: int, width: int, mlp: int, heads: int, **more: Any) -> dict[str, Any]:
    """`spec.model` of a Llama of these sizes."""
    return {
        "family": "llama",
        "numHiddenLayers": layers,
        "hiddenSize": width,
        "intermediateSize": mlp,
        "numAttentionHeads": heads,
        **more,
    }


TINIEST = llama(1, 8, 8, 1, numKeyValueHeads=1)
"""`spec.model` of the smallest model, for tests in which the model does not matter."""

_FIELDS: dict[str, dict[str, Any]] = {
    "llama": _SIZES | {"numHiddenLayers": 2, "intermediateSize": 64, "hybridNorm": True, "inputEmbeddingNorm": True},
    "gpt2": {"numHiddenLayers": 2, "hiddenSize": 32, "numAttentionHeads": 4},
    "backpack": {"numHiddenLayers": 2, "hiddenSize": 32, "numAttentionHeads": 4, "numSenses": 4},
    "hyena": {"numHiddenLayers": 2, "hiddenSize": 32, "filterOrder": 8},
    "qwen2": _SIZES | {"numHiddenLayers": 2},
    "qwen3": _SIZES | {"numHiddenLayers": 2},
    "mistral": _SIZES | {"numHiddenLayers": 2, "slidingWindow": 16},
    "gemma": _SIZES | {"numHiddenLayers": 2},
    "gemma2": _SIZES | {"numHiddenLayers": 3, "slidingWindow": 16},
    "gemma3": _SIZES | {"numHiddenLayers": 7, "slidingWindow": 16, "finalLogitSoftcapping": 20.0},
    "olmo2": _SIZES | {"numHiddenLayers": 2},
    "olmo3": _SIZES | {"numHiddenLayers": 5, "slidingWindow": 16, "attentionBias": True},
    "mixtral": _SIZES | {"numHiddenLayers": 2, "numLocalExperts": 4},
    "qwen3Moe": _SIZES | _EXPERTS | {"numHiddenLayers": 3, "mlpOnlyLayers": [1]},
    "gptOss": _SIZES | {"numHiddenLayers": 2, "numLocalExperts": 4, "numExpertsPerTok": 2, "slidingWindow": 16},
    "deepseekV3": _SIZES | _ROUTED | _LATENT | {"numHiddenLayers": 2},
    "glm4Moe": _SIZES | _ROUTED | {"numHiddenLayers": 2},
    "qwen3Next": _SIZES | _EXPERTS | _DELTA | {"numHiddenLayers": 4},
    "apertus": _SIZES | {"numHiddenLayers": 2},
    "modernBert": {
        **{name: size for name, size in _SIZES.items() if name != "numKeyValueHeads"},
        "numHiddenLayers": 3,
        "localAttention": 8,
    },
    "nanochat": {"depth": 3, "hiddenSize": 32, "headDim": 8, "numKeyValueHeads": 2, "slidingWindow": 16},
}

SMALL = llama(2, 64, 128, 4)
"""`spec.model` of a small model, for tests that read its sizes."""

SMALL_FAMILIES = {family: {"family": family, **fields} for family, fields in _FIELDS.items()}


MASKED: dict[str, Any] = {
    "objective": {"maskedToken": {}},
    "tokenizer": {"bpe": {"vocabSize": 512, "specialTokens": ["[MASK]"]}},
}
"""What a run of an encoder has beside its model."""


def sections_of(family: str) -> dict[str, Any]:
    """The sections of a run that trains the small model of a family."""
    return {"model": SMALL_FAMILIES[family], **(MASKED if family == "modernBert" else {})}
