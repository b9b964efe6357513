"""Small models, and the meshes on which a test compares their losses with those of one device."""

from __future__ import annotations

from typing import Any

from tests.families import llama

LLAMA: dict[str, Any] = llama(2, 16, 24, 4, numKeyValueHeads=2)
TIED: dict[str, Any] = LLAMA | {"tieWordEmbeddings": True}
GPT2: dict[str, Any] = {"family": "gpt2", "numHiddenLayers": 2, "hiddenSize": 16, "numAttentionHeads": 4}
BACKPACK: dict[str, Any] = GPT2 | {"family": "backpack", "numSenses": 4, "senseIntermediateScale": 2}
"""Values of another size than keys, which no map follows."""
HYENA: dict[str, Any] = {"family": "hyena", "numHiddenLayers": 2, "hiddenSize": 16, "filterOrder": 8}
"""Transforms of whole sequences, of the channels of each device."""
MIXTRAL: dict[str, Any] = {
    "family": "mixtral",
    "numHiddenLayers": 2,
    "hiddenSize": 16,
    "intermediateSize": 8,
    "numAttentionHeads": 4,
    "numKeyValueHeads": 2,
    "numLocalExperts": 8,
    "routerAuxLossCoef": 0.1,
    "routerZLossCoef": 0.01,
}
SIZES: dict[str, Any] = {"hiddenSize": 16, "intermediateSize": 24, "numAttentionHeads": 4, "numKeyValueHeads": 2}
OLMO3: dict[str, Any] = {"family": "olmo3"} | SIZES | {"numHiddenLayers": 5, "slidingWindow": 4, "attentionBias": True}
"""A mesh splits what a norm of all heads together is a mean of."""
GEMMA2: dict[str, Any] = (
    {"family": "gemma2"} | SIZES | {"numHiddenLayers": 3, "slidingWindow": 4, "finalLogitSoftcapping": 2.0}
)
QWEN3: dict[str, Any] = {"family": "qwen3"} | SIZES | {"numHiddenLayers": 2, "attentionBias": True}
EXPERTS: dict[str, Any] = SIZES | {"numHiddenLayers": 2, "intermediateSize": 8, "numExpertsPerTok": 2}
GPT_OSS: dict[str, Any] = {"family": "gptOss"} | EXPERTS | {"numLocalExperts": 8, "slidingWindow": 4}
"""Sinks, and biases of the experts."""
LATENT: dict[str, Any] = {
    "qLoraRank": 8,
    "kvLoraRank": 8,
    "qkNopeHeadDim": 4,
    "qkRopeHeadDim": 2,
    "vHeadDim": 8,
    "numKeyValueHeads": 4,
}
DEEPSEEK: dict[str, Any] = (
    {"family": "deepseekV3"}
    | EXPERTS
    | LATENT
    | {"nRoutedExperts": 8, "moeIntermediateSize": 8, "routerCorrectionCoef": 0.01}
)
"""Values of another size than keys, a shared expert, and a layer without experts."""
DELTA: dict[str, Any] = {
    "linearNumKeyHeads": 2,
    "linearNumValueHeads": 4,
    "linearKeyHeadDim": 4,
    "linearValueHeadDim": 6,
    "headDim": 8,
}
QWEN3_NEXT: dict[str, Any] = (
    {"family": "qwen3Next"} | EXPERTS | DELTA | {"numHiddenLayers": 4, "numExperts": 8, "moeIntermediateSize": 8}
)
"""States of gated delta nets beside attention with a gate, and a shared MLP with a factor."""
NANOCHAT: dict[str, Any] = {
    "family": "nanochat",
    "depth": 4,
    "hiddenSize": 32,
    "headDim": 8,
    "numKeyValueHeads": 2,
    "windowPattern": "SL",
    "slidingWindow": 4,
}
"""A smear, value embeddings, and a norm without weights."""
MODELS = {
    "llama": LLAMA,
    "tied": TIED,
    "gpt2": GPT2,
    "olmo3": OLMO3,
    "gemma2": GEMMA2,
    "qwen3": QWEN3,
    "nanochat": NANOCHAT,
    "backpack": BACKPACK,
    "hyena": HYENA,
    "mixtral": MIXTRAL,
    "gptOss": GPT_OSS,
    "deepseekV3": DEEPSEEK,
    "qwen3Next": QWEN3_NEXT,
}

RECOMPUTED = ("attention", "dots", "full", "nested", "offload")
"""Remat policies that compute something again."""
MODELS["four layers"] = LLAMA | {"numHiddenLayers": 4}
"""Blocks enough for groups of them."""

FEW: list[Any] = [
    ("gpt2", "replica 2 x fsdp 2 x tensor 2", 4, "cpu"),
    ("mixtral", "fsdp 2 x expert 2 x context 2", 1, "cpu"),
]
"""Model, mesh, microbatches, accelerator."""

DENSE = (
    "fsdp 8",
    "data 8",
    "replica 8",
    "fsdp 4 x tensor 2",
    "data 2 x tensor 4",
    "replica 2 x data 2 x fsdp 2",
    "replica 2 x fsdp 2 x tensor 2",
)
CONTEXT = (
    "context 2",
    "context 6",
    "fsdp 4 x context 2",
    "data 2 x context 3",
    "replica 2 x fsdp 2 x context 2",
    "replica 2 x context 2 x tensor 2",
)
EXPERT = (
    "expert 8",
    "fsdp 2 x expert 4",
    "fsdp 2 x expert 2 x tensor 2",
    "replica 2 x fsdp 2 x expert 2",
    "replica 2 x data 2 x expert 2",
    "expert 2 x context 2 x tensor 2",
    "replica 2 x expert 2 x context 2",
)
FURTHER = ("olmo3", "gemma2", "qwen3", "nanochat", "backpack", "gptOss", "deepseekV3", "qwen3Next")
"""Families with further parts. They are tested on few meshes."""

MORE: list[Any] = [
    (model, on, *how)
    for models, meshes in (
        (("llama", "tied", "gpt2"), DENSE + CONTEXT),
        (FURTHER[:5], ("data 2 x fsdp 2 x tensor 2", "replica 2 x tensor 2", "fsdp 2 x context 2 x tensor 2")),
        (
            FURTHER[5:],
            ("fsdp 2 x context 2 x tensor 2", "fsdp 2 x expert 2 x context 2", "expert 2 x context 2 x tensor 2"),
        ),
        (("mixtral",), EXPERT),
    )
    for model in models
    for on in meshes
    for how in ([(2, "cpu")] if model in FURTHER else [(1, "cpu"), (2, "cpu"), (2, "v5e")])
    if (model, on, *how) not in FEW and ("tensor 4" not in on or model == "gpt2")
] + [("llama", "fsdp 2 x context 2 x tensor 2", 1, "cpu"), ("olmo3", "fsdp 4 x tensor 2", 1, "cpu")]
MORE += [("hyena", "data 2 x fsdp 2 x tensor 2", 2, "cpu")]
"""Further cases. Four shares of `tensor` divide the heads of `gpt2` only."""
