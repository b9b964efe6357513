"""The time to trace and compile a training step, with few and with many layers: it must not grow with the number of
layers.

Besides `llama`, whose blocks are all alike, two families with unlike blocks: `gemma3`, where each sixth block attends
to the whole sequence and the others to a window, and `qwen3Moe`, where every second block has experts. Models are
small; the time of the compiler depends on the program, not on the sizes in it. Nothing runs.

    python tests/bench/bench_compile.py [--families llama,gemma3,qwen3Moe] [--layers 12,48] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import jax
from step_turns import Seconds, Sizes, program_of, seconds, start_on_one_processor

SIZES = Sizes(vocabulary=512, length=128, batch=4)


def model_of(family: str, layers: int) -> dict[str, Any]:
    """``spec.model`` of a small model."""
    if family == "llama":
        return {"llama": {"numHiddenLayers": layers, "hiddenSize": 64, "intermediateSize": 128, "numAttentionHeads": 2}}
    sizes: dict[str, Any] = {
        "numHiddenLayers": layers,
        "hiddenSize": 64,
        "intermediateSize": 128,
        "numAttentionHeads": 2,
        "headDim": 32,
    }
    further: dict[str, dict[str, Any]] = {
        "gemma3": {"slidingWindow": 32},
        "qwen3Moe": {"numExperts": 8, "numExpertsPerTok": 2, "moeIntermediateSize": 32, "decoderSparseStep": 2},
    }
    return {family: sizes | further.get(family, {})}


def compiled(family: str, layers: int) -> dict[str, Seconds]:
    """The time of building the shapes of a program, and of tracing and compiling its step."""
    jax.clear_caches()
    programs: list[Any] = []
    built = seconds(lambda: programs.append(program_of(model_of(family, layers), SIZES)))
    return {"shapes": built, "step": seconds(lambda: programs[0].compile_step(SIZES.batch, SIZES.length))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default="llama,gemma3,qwen3Moe")
    parser.add_argument("--layers", default="12,48")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    start_on_one_processor()
    layers = [int(word) for word in options.layers.split(",")]
    compiled("llama", layers[0])  # what a process does only once
    for family in options.families.split(","):
        found: dict[int, list[dict[str, Seconds]]] = {count: [] for count in layers}
        for number in range(options.rounds):
            for count in layers if number % 2 else reversed(layers):
                found[count].append(compiled(family, count))
        medians = {
            count: {part: statistics.median(one[part].processor for one in times) for part in ("shapes", "step")}
            for count, times in found.items()
        }
        for count, parts in medians.items():
            print(
                f"{family}, {count} layers: shapes {parts['shapes']:.2f} s, step {parts['step']:.2f} s of the "
                "processor",
                flush=True,
            )
        first, last = (medians[count]["step"] for count in (layers[0], layers[-1]))
        print(f"{family}: {layers[-1]} / {layers[0]} layers: {last / first:.2f} times the time", flush=True)


if __name__ == "__main__":
    main()
