"""`python -m tests.programs.page`: compiles all programs and writes docs/programs.md. `make programs ARGS=--page` runs
it.

The pure part is `page`, which makes the text from the plans.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from halcyon.commands.programs.gpus import GPUS
from halcyon.models.parts.blackwell_gradients import keys_of_step
from halcyon.models.parts.hopper_gradients import BLOCK, TILE
from halcyon.models.parts.visible_tiles import tiles_of_keys, tiles_of_queries
from halcyon_api.counting import size
from halcyon_api.hardware.gpu_attention import gpu_kernel
from tests.programs.rows import HEADS, LENGTH, MODELS, PENDING, ROWS, WITH_EXPERTS, Row

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "programs.md"
Document = Mapping[str, Any]
"""A plan as JSON (`halcyon.step.device_use.Plan.document`), or ``error``: why there is no program."""

_TITLES = {
    "1B": "1B: Llama 3.2 1B",
    "8B": "8B: Llama 3 8B",
    "MoE": "MoE: widths of Qwen3-30B-A3B, 4 layers",
    "hybrid": "Hybrid: widths of Qwen3-Next with 8 of 128 experts, 4 layers, of which one has attention and three have "
    "delta nets",
    "MLA": "MLA: attention of DeepSeek V3 with 16 heads, 64 experts of width 1,408, 3 "
    "layers, of which two have experts",
}
_HEAD = f"""\
# Programs

<!-- written by `make programs ARGS=--page`; do not edit -->

What XLA puts into the step of a run, by accelerator and model: compiled ahead of time for 8 devices of each accelerator, without the
hardware, and read off the compiled program ([how](design/programs.md)). **Nothing here is a measurement**;
[performance](performance.md) has those. Each device has one sequence of {LENGTH:,} positions in bfloat16, documents apart, parameters split
over `fsdp`, and defaults for all else. Each row is a test of `make programs`, which fails if a kernel leaves the program.

- **attention**: calls of attention kernels in a step, forward and backward. *Computed again*: the backward pass calls a forward kernel.
- **its loops**: loops with matrix products of attention, and their iterations in a step. *d*: the data decides the iterations of one of
  them, which counts once.
- **tiles**: the tiles that the backward kernels of GPUs compute, of those in the causal triangle, with documents of 1,000 tokens in the mean;
  counted from the ranges that the kernels get, for drawn documents.
- **experts**, **its loops**: the same for the products of experts.
- **products**: matrix products of libraries and of XLA by type of the factors, in a step. A loop whose iterations the data decides counts
  once.
- **memory**: of a device, for the step.
- **covered**: share of the time of collectives that computation covers on an ideal device
  ([assumptions](design/programs.md#covered-collectives)).
- **in loops**: the largest array that is gathered inside a loop.
- **compiler**: its seconds, on the machine that wrote the page.
"""


def compiled(row: Row) -> Document:
    """The plan of a row, from a process of its own; one with ``error`` if the compiler rejects the program."""
    command = [sys.executable, "-m", "tests.programs.compile", row.name]
    ended = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        return {"error": lines[-1] if lines else f"exit status {ended.returncode}"}
    return json.loads(ended.stdout.splitlines()[-1])


def kernels(plan: Document, scope: str) -> list[dict[str, Any]]:
    """The calls of kernels of a part of the model, without library products."""
    return [
        call
        for call in plan["calls"]
        if call["scope"] == scope and not call["target"].startswith(("__cublas$", "__cudnn$"))
    ]


def product_loops(plan: Document, scope: str) -> list[dict[str, Any]]:
    """The loops of a part of the model that have matrix products in them."""
    return [loop for loop in plan["loops"] if f"{scope}/" in loop["operation"] and loop["products"]]


def times(loops: Sequence[int | None]) -> int:
    """Iterations of loops inside each other. A loop whose iterations the data decides counts once."""
    found = 1
    for trips in loops:
        found *= trips or 1
    return found


def gathered_in_loops(plan: Document) -> int:
    """Bytes of the largest array that is gathered inside a loop."""
    return max(
        (row["largest_bytes"] for row in plan["traffic"] if row["kind"] == "all-gather" and row["depth"]), default=0
    )


def covered(plan: Document) -> float | None:
    """Share of the time of collectives that computation covers. None: there are none."""
    found = plan["overlap"]
    return max(0.0, 1 - found["waited"] / found["collectives"]) if found and found["collectives"] else None


def _kernels(plan: Document, scope: str) -> str:
    found: Counter[tuple[str, str]] = Counter()
    for call in kernels(plan, scope):
        found[call["target"], call["phase"]] += call["count"] * times(call["loops"])
    names = {"recomputed": "computed again"}
    return (
        ", ".join(f"{count} {names.get(phase, phase)} (`{target}`)" for (target, phase), count in sorted(found.items()))
        or "none"
    )


def _loops(plan: Document, scope: str) -> str:
    found = product_loops(plan, scope)
    if not found:
        return "none"
    decided = " d" if any(None in (loop["trips"], *loop["outer"]) for loop in found) else ""
    return f"{len(found)}: {sum(times((loop['trips'], *loop['outer'])) for loop in found):,}{decided}"


def tile_share(first: np.ndarray, gpu: str, head: int, value: int) -> float:
    """Tiles that the backward kernels of a GPU compute, of those in the causal triangle.

    Args:
        first: First key of each query, int32 [rows, positions].
        gpu: `accelerator.type`.
        head: Features of a key.
        value: Features of a value.
    """
    major, minor = map(int, GPUS[gpu].compute_capability.split("."))
    kernel = gpu_kernel((major, minor), head, value, soft_cap=False, ranges=True)
    if isinstance(kernel, str) or kernel.gradients is None:
        return 1.0
    keys = BLOCK if kernel.gradients == "hopper" else keys_of_step(2 * (head + value))
    given, counts = jnp.asarray(first, jnp.int32), []
    for begins in (given, jnp.zeros_like(given)):
        ranges = (tiles_of_keys(begins, TILE, keys) * keys, tiles_of_queries(begins, TILE, BLOCK) * BLOCK)
        counts.append(sum(int(jnp.sum(found[..., 1] - found[..., 0])) for found in ranges))
    return counts[0] / counts[1]


def tiles_of(row: Row) -> str:
    """The cell of a row in the column "tiles"."""
    if row.accelerator not in GPUS:
        return "-"
    begins = np.random.default_rng(0).random((20, LENGTH)) < 1 / 1000
    first = np.maximum.accumulate(np.where(begins, np.arange(LENGTH), 0), 1)
    return f"{tile_share(first, row.accelerator, *HEADS[row.model]):.0%}"


def _products(plan: Document) -> str:
    found: Counter[str] = Counter()
    for product in plan["products"]:
        found[product["dtype"]] += product["times"]
    return ", ".join(f"{count:,} {dtype}" for dtype, count in found.most_common())


def _line(row: Row, plan: Document) -> str:
    cells = [row.accelerator]
    experts = row.model in WITH_EXPERTS
    if "error" in plan:
        return f"| {row.accelerator} | no program: {plan['error'][:300].replace('|', ' ')} |{' |' * (10 if experts else 8)}"
    cells += [_kernels(plan, "attention"), _loops(plan, "attention"), tiles_of(row)]
    cells += [_kernels(plan, "experts"), _loops(plan, "experts")] if experts else []
    share = covered(plan)
    cells += [
        _products(plan),
        size(plan["memory"]["step"]),
        "-" if share is None else f"{share:.0%}",
        size(gathered_in_loops(plan)),
        f"{plan['compile_seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def page(plans: Mapping[str, Document], versions: Mapping[str, str]) -> str:
    """The text of docs/programs.md.

    Args:
        plans: A plan for each row, by its name.
        versions: Versions of the compilers, by package.
    """
    lines = [_HEAD, f"Compilers: {', '.join(f'{name} {version}' for name, version in versions.items())}.", ""]
    for model in MODELS:
        experts = ["experts", "its loops"] if model in WITH_EXPERTS else []
        header = [
            "",
            "attention",
            "its loops",
            "tiles",
            *experts,
            "products",
            "memory",
            "covered",
            "in loops",
            "compiler",
        ]
        lines += [f"## {_TITLES[model]}", "", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
        lines += [_line(row, plans[row.name]) for row in ROWS if row.model == model]
        lines.append("")
    pending = [f"{promise} of {', '.join(sorted(names))}" for promise, names in PENDING.items() if names]
    if pending:
        lines += [
            "## Missing",
            "",
            "Known to be missing in these programs; the tests of these rows fail when it appears, so that this list is "
            "kept:",
            "",
        ]
        lines += [f"- {each}" for each in pending]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    from tests.programs.compile import versions

    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2)) as processes:
        plans = dict(zip((row.name for row in ROWS), processes.map(compiled, ROWS), strict=True))
    PAGE.write_text(page(plans, versions()), encoding="utf-8")


if __name__ == "__main__":
    main()
