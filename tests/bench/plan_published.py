"""`halcyon plan` of large trainings, and beside published speeds: each step is compiled for its hardware, without it.

The plan's ceiling is the speed of ideal devices, so it lies above what was measured. How far above is a measure of the
plan. The published trainings are those of MaxText and torchtitan; their sources are in `PUBLISHED`.

    python tests/bench/plan_published.py [--tpu PYTHON] [--cuda PYTHON] [--only WORD ...] [--page docs/performance.md] [--search MINUTES]

`--search MINUTES` lets `halcyon plan --search` look for a faster mesh of each large training.
`--tpu` and `--cuda` are interpreters with the extras of these names; a process can compile for one of them only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

sys.path.append(str(Path(__file__).parents[2]))

from tests.families import llama
from tests.page_block import block, write_block

REPOSITORY = Path(__file__).resolve().parents[2]
LLAMA_2_7B = llama(32, 4096, 11008, 32)
LLAMA_2_70B = llama(80, 8192, 28672, 64, numKeyValueHeads=8)
LLAMA_3_8B = llama(32, 4096, 14336, 32, numKeyValueHeads=8)
LLAMA_3_70B = LLAMA_2_70B


@dataclass(frozen=True)
class Published:
    """One published training.

    Attributes:
        name: The model.
        type: Type of accelerator.
        topology: Topology of a slice.
        chips: Its chips.
        model: ``spec.model``.
        vocabulary: Tokens of the vocabulary.
        length: Positions of a sequence.
        rows: Sequences of a chip in a step.
        speed: Tokens a second and chip that were published.
        source: Where.
        trainer: Further fields of ``spec.trainer``.
        assume: What its hardware has beside that of the accelerator type.
        why: Why the ceiling is below the published speed, or more than 1.3 times as high.
    """

    name: str
    type: str
    topology: str
    chips: int
    model: dict[str, Any]
    vocabulary: int
    length: int
    rows: float
    speed: float
    source: str
    trainer: dict[str, Any] = field(default_factory=dict[str, Any])
    assume: tuple[str, ...] = ()
    why: str = ""

    def document(self) -> dict[str, Any]:
        """The run document of such a training."""
        trainer = {"steps": 1000, "batchSize": round(self.chips * self.rows), "sequenceLength": self.length}
        trainer |= {"precision": {"compute": "bfloat16"}, "remat": "auto", "microbatches": "auto"}
        return {
            "apiVersion": "halcyon.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": {"name": "published"},
            "spec": {
                "accelerator": {"type": self.type, "topology": self.topology},
                "model": self.model,
                "tokenizer": {"bpe": {"vocabSize": self.vocabulary}},
                "data": {"sources": [{"name": "random", "stdlib": {}}], "attendAcrossDocuments": True},
                "optimizer": {"learningRate": 0.0003, "adamw": {}},
                "trainer": trainer | self.trainer,
                "checkpoint": {"root": "gs://unused/unused"},
            },
        }


ON_HOST = {"remat": "offload"}
"""The published trainings keep the inputs of blocks, and the projections of attention too, in the host's memory."""

HOPPER = "large products reach 0.73 of the peak of an H100, and attention 0.38 (measured)"

AT_500_W = ("device-memory=2.4e12", "device-flops=835e12")
"""torchtitan's H100 have HBM2e and take 500 W; their peak lies between those of the H100 NVL, which is this one, and SXM."""

PUBLISHED = (
    Published("Llama 3.1 8B", "v6e", "2x4", 8, LLAMA_3_8B, 128_256, 8192, 3, 7139, "tpu-recipes", ON_HOST),
    Published("Llama 3.1 70B", "v6e", "16x16", 256, LLAMA_3_70B, 128_256, 8192, 5, 960, "tpu-recipes", ON_HOST),
    Published("Llama 2 70B", "v5p", "4x8x8", 256, LLAMA_2_70B, 32_000, 4096, 4, 692, "MaxText, tiering.md"),
    Published("Llama 2 7B", "h100", "1x8", 8, LLAMA_2_7B, 32_000, 4096, 4, 11_400, "MaxText, GPU table", why=HOPPER),
    Published(
        "Llama 3.1 8B",
        "h100",
        "1x8",
        8,
        LLAMA_3_8B,
        128_256,
        8192,
        2,
        6667,
        "torchtitan, compiled",
        assume=AT_500_W,
        why=f"{HOPPER}; its blocks are computed again in part, on cards of 500 W",
    ),
    Published(
        "Llama 3.1 8B in float8",
        "h100",
        "1x8",
        8,
        LLAMA_3_8B,
        128_256,
        32_768,
        1,
        3890,
        "torchtitan, compiled",
        {"precision": {"compute": "bfloat16", "products": "float8"}, "remat": "full"},
        AT_500_W,
        f"{HOPPER}; cards of 500 W",
    ),
    Published(
        "Llama 3 8B",
        "a100-80gb",
        "8x8",
        64,
        LLAMA_3_8B,
        128_256,
        8192,
        1,
        2973,
        "torchtitan, selective op",
        assume=("device-network=25e9",),
        why="products and attention reach the shares of an H100; 200 Gbit/s a GPU between hosts",
    ),
    Published(
        "Llama 3 70B",
        "h100",
        "16x8",
        128,
        LLAMA_3_70B,
        128_256,
        8192,
        1,
        1052,
        "NGC MaxText",
        assume=("device-network=50e9",),
    ),
)


QWEN_3_30B: dict[str, Any] = {
    "numHiddenLayers": 48,
    "hiddenSize": 2048,
    "numAttentionHeads": 32,
    "numKeyValueHeads": 4,
    "headDim": 128,
    "numExperts": 128,
    "numExpertsPerTok": 8,
    "moeIntermediateSize": 768,
}
LLAMA_3_1B = llama(16, 2048, 8192, 32, numKeyValueHeads=8, headDim=64, tieWordEmbeddings=True)


def large() -> dict[str, dict[str, Any]]:
    """Documents of large trainings by a few words."""

    def of(
        where: tuple[str, str, int], model: dict[str, Any], length: int, rows: int, **trainer: Any
    ) -> dict[str, Any]:
        kind, topology, chips = where
        return Published("", kind, topology, chips, model, 128_256, length, rows, 0, "", trainer).document()

    dense, sparse = of(("v6e", "16x16", 512), LLAMA_3_70B, 8192, 1), of(("h200", "1x8", 8), {}, 4096, 8)
    dense["spec"]["accelerator"]["slices"] = 2
    sparse["spec"] |= {"model": {"family": "qwen3Moe"} | QWEN_3_30B, "tokenizer": {"bpe": {"vocabSize": 151_936}}}
    return {
        "Llama 3.1 8B, 64 v5p": of(("v5p", "4x4x4", 64), LLAMA_3_8B, 8192, 4),
        "Llama 3.1 70B, 2 x 256 v6e": dense,
        "Qwen3 30B-A3B, 8 h200": sparse,
        "Llama 3.2 1B, 1 l4": of(("l4", "1x1", 1), LLAMA_3_1B, 2048, 8, offload="auto"),
    }


def large_row(title: str, document: dict[str, Any], python: Path, minutes: float | None) -> str:
    """The row of a large training."""
    found, seconds = planned(document, python)
    if isinstance(found, str):
        return f"| {title} | {found} | | | | {seconds:,.0f} s | |"
    best = "-"
    if minutes is not None:
        rows, _ = planned(document, python, "--search", f"--minutes={minutes}")
        fitting = [one for one in rows if one["fits"]] if isinstance(rows, list) else []
        best = f"none of {len(rows)} fits"
        if fitting:
            time_of = fitting[0]["plan"]["step"]["time of a step"]["value"]
            changes = {name.rpartition(".")[2]: value for name, value in fitting[0]["changes"].items()}
            short = ", ".join(f"{name} {value}" for name, value in changes.items() if value not in (1, "auto"))
            best = f"{time_of:.3g} s with {short or 'the document as it is'}, of {len(rows)} tried"
    numbers, program = found["plan"], found["program"]
    memory = numbers["memory of a device"]
    mesh = " x ".join(f"{name} {size}" for name, size in program["mesh"].items() if size > 1) or "one device"
    step = numbers["step"]
    return (
        f"| {title} | {mesh}, {program['microbatches']} x {program['rows']}, remat {program['remat']} | "
        f"{memory['the whole step']['value'] / 1e9:.1f} of {memory['there is']['value'] / 1e9:.1f} GB | "
        f"{step['time of a step']['value']:.3g} s | {step['MFU']['value']:.1%} | {seconds:,.0f} s | {best} |"
    )


def spent() -> float:
    """Seconds of a processor that ended children of this process have taken."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def planned(document: dict[str, Any], python: Path, *options: str) -> tuple[Any, float]:
    """The numbers of the plan as JSON, or why there is none; and the seconds of a processor that it took, which other
    programs on the machine hardly change.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        paths = os.pathsep.join(str(REPOSITORY / name) for name in ("trainer", "crds"))
        began = spent()
        ended = subprocess.run(
            [python, "-m", "halcyon.commands.main", "plan", path, "--json", *options],
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
    seconds = spent() - began
    if not ended.stdout.startswith(("{", "[")):
        said = ended.stderr.strip().splitlines() or [f"exit {ended.returncode}"]
        return said[-1].removeprefix(f"{path}: "), seconds
    return json.loads(ended.stdout), seconds


def row(one: Published, python: Path) -> str:
    """The row of a training."""
    found, seconds = planned(one.document(), python, *(f"--assume={value}" for value in one.assume))
    head = f"| {one.name} | {one.chips} x {one.type} | {one.source} | {one.speed:,.0f} |"
    if isinstance(found, str):
        return f"{head} - | - | - | - | {seconds:,.0f} s | {found} | |"
    numbers, program = found["plan"], found["program"]
    tokens = one.rows * one.length * (2 if one.type == "v7x" else 1)
    ceiling, speed = (tokens / numbers["step"][name]["value"] for name in ("time on ideal devices", "time of a step"))
    memory = numbers["memory of a device"]
    fits = "missing" not in memory
    program = (
        f"{program['microbatches']} x {program['rows']}, remat {program['remat']}{'' if fits else ', does not fit'}"
    )
    program += f" | {one.why}"
    return f"{head} {ceiling:,.0f} | {ceiling / one.speed:.2f} | {speed:,.0f} | {speed / one.speed:.2f} | {seconds:,.0f} s | {program} |"


def with_others(page: str, name: str, rows: list[str]) -> list[str]:
    """The rows of a table, those that did not run now as the page has them.

    Args:
        page: The page.
        name: The table.
        rows: Two lines of its head, and the rows that ran.
    """
    known = {title_of(line): line for line in block(page, name).split("\n")} | {
        title_of(line): line for line in rows[2:]
    }
    order = [*large(), *(f"{one.name} {one.chips} x {one.type}" for one in PUBLISHED)]
    return [*rows[:2], *(known[title] for title in order if title in known)]


def title_of(line: str) -> str:
    """What names a row: a large training, or a model with its hardware."""
    first, second, *_ = (cell.strip() for cell in line.strip("|").split("|"))
    return first if first in large() else f"{first} {second}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tpu", type=Path, default=Path(sys.executable))
    parser.add_argument("--cuda", type=Path, default=Path(sys.executable))
    parser.add_argument("--only", nargs="*", default=[""], help="words of the model or the hardware")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--search", type=float, metavar="MINUTES", help="search for a faster mesh of the large ones")
    options = parser.parse_args()
    wide = [
        "| training | the plan's choice | memory | time of a step | MFU | processor | the best of a search |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for title, document in large().items():
        if any(word in title for word in options.only):
            python = options.cuda if document["spec"]["accelerator"]["type"] in ("h200", "l4") else options.tpu
            wide.append(large_row(title, document, python, options.search))
            print(wide[-1], flush=True)
    lines = [
        "| model | hardware | published by | tokens/s a chip | the plan's ceiling | ratio | the plan | ratio | processor | program | why below 1, or more than 1.3 |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for one in PUBLISHED:
        if any(word in f"{one.name} {one.type}" for word in options.only):
            lines.append(row(one, options.cuda if one.type.startswith(("a", "h", "b")) else options.tpu))
            print(lines[-1], flush=True)
    if options.page is not None:
        for name, rows in (("large", wide), ("published", lines)):
            page = options.page.read_text(encoding="utf-8")
            write_block(options.page, name, "\n".join(with_others(page, name, rows)))


if __name__ == "__main__":
    main()
