"""The programs of docs/programs.md: hardware and model, and what must be in each program.

`PENDING` names the rows whose kernel Halcyon does not have yet. Their tests must fail until then; the change that adds
the kernel takes the name out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from halcyon_api.training_run import TrainingRunSpec
from tests.families import llama

LENGTH, DEVICES = 8192, 8
"""Positions of a sequence; devices of each program, with one sequence on each."""
VOCABULARY = 128_256

TOPOLOGIES = {"h100": "1x8", "h200": "1x8", "b200": "1x8", "v5p": "2x2x2", "v6e": "2x4", "v7x": "2x2x1"}
"""Eight devices of each accelerator."""
GPUS = ("h100", "h200", "b200")

_EXPERTS: dict[str, Any] = {"numExpertsPerTok": 8}
MODELS: dict[str, dict[str, Any]] = {
    "1B": llama(16, 2048, 8192, 32, numKeyValueHeads=8, headDim=64, tieWordEmbeddings=True),
    "8B": llama(32, 4096, 14336, 32, numKeyValueHeads=8, headDim=128),
    "MoE": {"family": "qwen3Moe"} | _EXPERTS
        | {
            "numHiddenLayers": 4, "hiddenSize": 2048, "intermediateSize": 6144, "numAttentionHeads": 32,
            "numKeyValueHeads": 4,
            "headDim": 128, "numExperts": 128, "moeIntermediateSize": 768,
        },
    "hybrid": {"family": "qwen3Next"} | _EXPERTS
        | {
            "numHiddenLayers": 4, "hiddenSize": 2048, "intermediateSize": 5120, "numAttentionHeads": 16,
            "numKeyValueHeads": 2,
            "headDim": 256, "numExperts": 128, "moeIntermediateSize": 512,
        },
    "MLA": {"family": "deepseekV3"} | _EXPERTS
        | {
            "numHiddenLayers": 3, "hiddenSize": 2048, "intermediateSize": 8192, "numAttentionHeads": 16,
            "nRoutedExperts": 64,
            "moeIntermediateSize": 1408, "qkNopeHeadDim": 128, "qkRopeHeadDim": 64, "vHeadDim": 128, "kvLoraRank": 512,
        },
}  # fmt: skip
"""Widths of Llama 3.2 1B, Llama 3 8B, Qwen3-30B-A3B, Qwen3-Next (with 8 of 128 experts) and DeepSeek V3's attention
with 16 heads. Models with experts have few layers; a loop over more of them would be the same program."""
WITH_EXPERTS = ("MoE", "hybrid", "MLA")
HEADS = {"1B": (64, 64), "8B": (128, 128), "MoE": (128, 128), "hybrid": (256, 256), "MLA": (192, 128)}
"""Features of a key and of a value."""


@dataclass(frozen=True)
class Row:
    """One program.

    Attributes:
        accelerator: ``accelerator.type``.
        model: A key of `MODELS`.
    """

    accelerator: str
    model: str

    @property
    def name(self) -> str:
        """Its name in tests and in the page's command."""
        return f"{self.accelerator}-{self.model}"

    @property
    def spec(self) -> TrainingRunSpec:
        """The run: bfloat16, documents apart, and defaults for all else that decides the program."""
        return TrainingRunSpec.model_validate(
            {
                "accelerator": {"type": self.accelerator, "topology": TOPOLOGIES[self.accelerator]},
                "model": MODELS[self.model],
                "tokenizer": {"bpe": {"vocabSize": VOCABULARY}},
                "data": {"sources": [{"name": "python", "stdlib": {}}]},
                "trainer": {
                    "steps": 1000, "batchSize": DEVICES, "sequenceLength": LENGTH, "precision": {"compute": "bfloat16"},
                    "remat": "full" if self.model in WITH_EXPERTS else "attention",
                },
                "checkpoint": {"root": "file:///unused"},
            }
        )  # fmt: skip


SLOW_TO_COMPILE = frozenset({("v6e", "hybrid"), ("v7x", "hybrid"), ("v7x", "MLA")})
"""Left out: libtpu takes up to eight minutes for such a program, and `v5p` has the row."""
ROWS = tuple(
    Row(accelerator, model)
    for model in MODELS
    for accelerator in TOPOLOGIES
    if (accelerator, model) not in SLOW_TO_COMPILE
)

Promise = Literal["attention", "experts", "overlap"]
"""What a test of a row asks: kernels in every layer of attention, kernels of experts, or covered collectives."""
LEAST_COVERED = 0.8
OVERLAP = ("v5p-8B", "v6e-8B", "h200-8B")
"""Rows in which computation must cover `LEAST_COVERED` of the time of collectives."""
PENDING: dict[Promise, frozenset[str]] = {
    "attention": frozenset(),
    "experts": frozenset(),
    "overlap": frozenset(OVERLAP) - {"h200-8B"},
}
"""Rows whose program does not have it yet."""

ATTENTION_KERNELS = ("mosaic_gpu_v2", "__gpu$xla.gpu.triton", "tpu_custom_call")
"""HLO's names of the functions that run a kernel of Pallas, for attention and for experts."""
