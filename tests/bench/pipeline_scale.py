"""What fsdp sends beside what it computes, and what a pipeline would cost in its place: Llama of 70B and 405B, from
formulas.

    fsdp bytes    = parameters x (2 bytes x gathers + 4 bytes) x (n - 1) / n, for n devices, or n hosts, that share the
    parameters fsdp time     = fsdp bytes / bandwidth of a device, or of a host; the longer one compute time  = tokens x
    FLOPs of a token / (devices x peak x utilisation) idle share    = (stages - 1) / (chunks x microbatches + stages -
    1), of a pipeline (1F1B; chunks > 1: interleaved) microbatches  = sequences / (devices / stages): each device of a
    stage computes one sequence at a time state         = 16 bytes x parameters / devices: parameter, gradient and
    AdamW's two moments, in float32 one sequence  = 2 bytes x layers x length x width: the inputs of all blocks, which
    `remat: full` keeps

A step gathers parameters in bfloat16 and adds gradients in float32. The compiled step of the 8B Llama of tests/programs
on 8 H200 has gathers of 40.2 GB, 2.5 times its parameters, and scatters of 32.1 GB, once. Bandwidth counts one
direction: of TPUs and of NVLink that of `halcyon.step.speeds`, of a GPU host the 3,200 Gbit/s of Google's
a3-ultragpu-8g. Nothing is measured.

    python tests/bench/pipeline_scale.py [--batch 512] [--length 8192] [--gathers 2.5] [--utilisation 0.5] [--stages 4]
    [--chunks 1]
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from halcyon.step.speeds import rates_of
from halcyon_api.hardware import TABLE
from halcyon_api.spec.accelerator import AcceleratorSpec
from halcyon_api.spec.model import ModelSpec

VOCABULARY = 128_256
MODELS = {
    "70B": {
        "numHiddenLayers": 80,
        "hiddenSize": 8192,
        "intermediateSize": 28_672,
        "numAttentionHeads": 64,
        "numKeyValueHeads": 8,
    },
    "405B": {
        "numHiddenLayers": 126,
        "hiddenSize": 16_384,
        "intermediateSize": 53_248,
        "numAttentionHeads": 128,
        "numKeyValueHeads": 8,
    },
}
HOST_DEVICES, HOST_BANDWIDTH = 8, 400e9
"""GPUs of a host, and bytes a second that a host receives from the others."""


@dataclass(frozen=True)
class Place:
    """Devices of one slice.

    Attributes:
        kind: ``accelerator.type``.
        topology: ``accelerator.topology`` of a TPU slice; of GPUs, one host.
        hosts: Hosts with a network between them; 1: all devices have one network.
    """

    kind: str
    topology: str
    hosts: int = 1

    @property
    def devices(self) -> int:
        """All devices."""
        return math.prod(int(side) for side in self.topology.split("x")) * self.hosts


PLACES = (
    Place("v5p", "4x4x8"),
    Place("v5p", "8x8x8"),
    Place("v6e", "16x16"),
    Place("h200", "1x8", 8),
    Place("h200", "1x8", 64),
)


@dataclass(frozen=True)
class Step:
    """One step of a model, in seconds and bytes.

    Attributes:
        state: Bytes of the state on one device.
        sequence: Bytes that a device keeps of one sequence.
        tokens: Tokens of a device.
        compute: Seconds that products take.
        fsdp: Seconds that gathers and scatters take.
        idle: Share of a pipeline's time in which a stage waits; None: the step has too few sequences for its stages.
    """

    state: float
    sequence: float
    tokens: float
    compute: float
    fsdp: float
    idle: float | None

    @property
    def least_tokens(self) -> float:
        """Tokens of a device in a microbatch from which on products take longer than gathers and scatters."""
        return self.tokens * self.fsdp / self.compute


def step_of(llama: dict[str, int], place: Place, options: argparse.Namespace) -> Step:
    """The step of a model.

    Args:
        llama: ``spec.model.llama``.
        place: The devices.
        options: The assumptions.
    """
    shape = ModelSpec.model_validate({"llama": llama}).shape(VOCABULARY, options.length)
    rates = rates_of(AcceleratorSpec(type=place.kind, topology=place.topology), 1)
    if rates is None:
        raise ValueError(f"the speed of {place.kind} is not known")
    sent = shape.parameters * (2 * options.gathers + 4)
    near = place.devices // place.hosts
    fsdp = max(sent * (near - 1) / near / rates.links, sent * (place.hosts - 1) / place.hosts / HOST_BANDWIDTH)
    tokens = options.batch * options.length / place.devices
    microbatches = options.batch * options.stages // place.devices
    return Step(
        state=16 * shape.parameters / place.devices,
        sequence=2 * llama["numHiddenLayers"] * options.length * llama["hiddenSize"],
        tokens=tokens,
        compute=tokens * shape.flops_per_token(options.length) / (rates.flops * options.utilisation),
        fsdp=fsdp,
        idle=(options.stages - 1) / (options.chunks * microbatches + options.stages - 1) if microbatches else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512, help="sequences of a step")
    parser.add_argument("--length", type=int, default=8192, help="tokens of a sequence")
    parser.add_argument("--gathers", type=float, default=2.5, help="gathers of a parameter in a step")
    parser.add_argument("--utilisation", type=float, default=0.5, help="share of the peak that products reach")
    parser.add_argument("--stages", type=int, default=4, help="stages of the pipeline")
    parser.add_argument(
        "--chunks", type=int, default=1, help="parts of the layers of a stage, in an interleaved pipeline"
    )
    options = parser.parse_args()
    table = Table(
        "model", "hardware", "state", "one sequence", "memory", "tokens", "compute s", "fsdp s", "fsdp / compute",
        "covered from tokens",
        f"idle in {options.stages} stages", box=SIMPLE_HEAD,
    )  # fmt: skip
    for name, llama in MODELS.items():
        for place in PLACES:
            found = step_of(llama, place, options)
            table.add_row(
                name,
                f"{place.kind} x {place.devices}",
                f"{found.state / 1e9:.0f} GB",
                f"{found.sequence / 1e9:.0f} GB",
                f"{(TABLE[place.kind].memory_bytes or 0) / 1e9:.0f} GB",
                f"{found.tokens:,.0f}",
                f"{found.compute:.1f}",
                f"{found.fsdp:.2f}",
                f"{found.fsdp / found.compute:.0%}",
                f"{found.least_tokens:,.0f}",
                "too few sequences" if found.idle is None else f"{found.idle:.0%}",
            )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
