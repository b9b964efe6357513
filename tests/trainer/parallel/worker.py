"""One process of a real process group: joins, runs a task, and prints JSON lines about it.

Usage: ``python -m tests.trainer.parallel.worker COORDINATOR INDEX COUNT TASK HEARTBEAT_SECONDS``.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from halcyon.models.axes import BATCH
from halcyon.parallel.axes import named_sharding
from halcyon.parallel.device_mesh import build_mesh
from halcyon.parallel.lifeline import end_process
from halcyon.parallel.preemption import PreemptionNotice, wait_together
from halcyon.parallel.process_group import LEAVE_TIMEOUT_SECONDS, ProcessGroup, join, leave
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_devcluster.machine import limit

DEVICES = 2
"""Virtual devices of each process."""


def tell(**event: Any) -> None:
    print(json.dumps(event), file=events, flush=True)


def summing(group: ProcessGroup) -> Any:
    """A compiled all-reduce over all devices: the sum of the devices' values, times the step."""
    mesh = build_mesh(ResolvedMesh(replica=group.process_count, data=1, fsdp=DEVICES, tensor=1))
    sharding = named_sharding(mesh, (BATCH,))
    count = group.process_count * DEVICES
    values = jax.make_array_from_callback((count,), sharding, lambda index: jnp.arange(count, dtype=jnp.float32)[index])
    total = jax.jit(lambda x, scale: jnp.sum(x * scale))
    return lambda step: float(total(values, jnp.float32(step)))


def device_policies() -> list[int]:
    """The scheduling policies, each once, of XLA's threads in this process."""
    names = {int(task.name): (task / "comm").read_text(encoding="utf-8") for task in Path("/proc/self/task").iterdir()}
    return sorted({os.sched_getscheduler(thread) for thread, name in names.items() if name.startswith("tf_XLA")})


def talk(group: ProcessGroup) -> None:
    """Use every collective operation once."""
    mine = {"process": group.process_index, "name": "Zoë"}
    tell(
        event="talked",
        agreed=group.agree(mine if group.is_main else None),
        long=len(group.agree({"text": "x" * 100_000} if group.is_main else None)["text"]),
        sum=summing(group)(1),
        devices=jax.device_count(),
        local=jax.local_device_count(),
        processes=jax.process_count(),
        policies=device_policies(),
    )
    group.greatest(0.0)  # all processes wait here


def steps(group: ProcessGroup) -> int:
    """Step together until a notice; returns the exit code."""
    step_sum = summing(group)
    with PreemptionNotice() as notice:
        step = 0
        while wait_together(group, notice, lambda seconds: not notice.arrived):
            step += 1
            step_sum(step)
            tell(event="step", step=step)
            time.sleep(0.005)
    tell(event="left", step=step)
    return 42


def idle(group: ProcessGroup) -> None:
    """Stay alive without any communication."""
    tell(event="idle")
    time.sleep(limit(600))


def linger(group: ProcessGroup) -> int:
    """Leave only after another process is lost: a normal end in spite of the loss."""
    tell(event="idle")
    assert group.lifeline is not None
    group.lifeline.lost.wait(limit(600))
    return 7


def leave_alone(group: ProcessGroup, index: int) -> int:
    """Leave at once with an exit code of its own on process `index`, while the others go on."""
    if group.process_index != index:
        idle(group)
    return 85


TASKS = {
    "talk": talk,
    "steps": steps,
    "idle": idle,
    "linger": linger,
    "leave-alone-0": partial(leave_alone, index=0),
    "leave-alone-1": partial(leave_alone, index=1),
}


def main() -> None:
    coordinator, index, count, task = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    started = time.monotonic()
    group = join(
        coordinator,
        index,
        count,
        DEVICES,
        heartbeat_timeout_seconds=limit(int(sys.argv[5])),
        leave_timeout_seconds=1 if task.startswith("leave-alone") else limit(LEAVE_TIMEOUT_SECONDS),
        on_loss=(lambda lost: None) if task == "linger" else end_process,
    )
    tell(event="joined", seconds=time.monotonic() - started)
    try:
        code = TASKS[task](group) or 0
    except Exception as error:  # as the trainer does: report, and do not wait for the others
        tell(event="failed", message=str(error))
        os._exit(1)
    started = time.monotonic()
    leave(group)
    tell(event="gone", seconds=time.monotonic() - started)
    os._exit(code)


if __name__ == "__main__":
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the communication libraries print to standard output
    main()
