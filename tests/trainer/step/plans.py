"""An example of a plan."""

from __future__ import annotations

from halcyon.step.device_use import DeviceBytes, Plan, Traffic

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
