"""An example of a plan, and of a compiled one on a device of round speeds."""

from __future__ import annotations

from dataclasses import replace

from halcyon.models.flops import ModelFlops
from halcyon.step.device_use import DeviceBytes, Plan, Traffic
from halcyon.step.hlo.schedule import Overlap
from halcyon.step.hlo.work import Rates, Work

PLAN = Plan(
    mesh={"replica": 2, "fsdp": 4, "tensor": 1},
    platform="tpu",
    batch_size=64,
    sequence_length=1024,
    microbatches=4,
    rows=2,
    positions=1024,
    remat="dots",
    unroll=1,
    memory=DeviceBytes(10**9, 2 * 10**9, 10**9, 5 * 10**8, 3_500_000_000, 16 * 10**9, offloaded=10**9),
    traffic=(Traffic("all-gather", ("fsdp",), 4, 10**8),),
)

RATES = Rates(flops=100.0, memory=10.0, links=1.0)
FLOPS = ModelFlops(100, attention=30, experts=0, head=0, hidden=15, frozen=0)
COMPILED = replace(
    PLAN,
    batch_size=64,
    sequence_length=1,
    work=(
        Work("mlp", 400.0, 5.0, 4.0, 0.0),
        Work("attention", 0.0, 10.0, 0.0, 1.0),
        Work("other", 0.0, 20.0, 0.0, 2.0),
    ),
    overlap=Overlap(7.0, 3.0, 1.0),
    memory=replace(PLAN.memory, offloaded=0),
)
"""64 tokens of 100 operations on 8 devices."""
