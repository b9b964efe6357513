"""Events of checkpoints, exports and profiles, of trouble, and of the end."""

from collections.abc import Mapping
from typing import Any

from halcyon.telemetry.events.row import STEP, Event
from halcyon_api.counting import counted


def _collective(of: Mapping[str, Any]) -> str:
    reached, promised = of["bus_bandwidth"] / 1e9, of.get("promised")
    share = f", {1e11 * reached / promised:.0f} % of {promised / 1e9:.0f}" if promised else ""
    return (
        f"{of['kind']} ({of['over']}), {of['devices']} devices, {of['size_bytes'] / 2**20:.0f} MiB: "
        f"{1e3 * of['seconds']:.2f} ms, {reached:.2f} GB/s{share}"
    )


ENDING = (
    Event(
        "checkpoint",
        "A checkpoint was committed.",
        {
            "step": "Steps done when it was made.",
            "path": "Path of the checkpoint below the root.",
            "sizeBytes": "Size of its files.",
            "blockedSeconds": "Time that the loop waited for the copy to the host; absent if it is not known.",
        },
        words=lambda of: f"step {of['step']}: checkpoint committed, {of['size_bytes'] / 1e6:.1f} MB",
        counts=("checkpoints", "Checkpoints committed that this process took part in."),
        change=lambda state, of, committed: (
            state.newest(committed)
            .but(checkpoint_error=None)
            .plus(checkpoint_blocked_seconds=of["blocked_seconds"] or 0.0)
        ),
    ),
    Event(
        "checkpointVerified",
        "A checkpoint was read back, as `checkpoint.verify` requires, and every byte is intact.",
        {"step": "Steps done when it was made."},
        words="step {step}: the checkpoint was read back, and every byte is intact",
        change=lambda state, of, _: state.verified(of["step"]),
    ),
    Event(
        "checkpointFailed",
        "A save failed, or a committed checkpoint was found damaged. The run goes on, and the next save tries again.",
        {"step": STEP, "reason": "What failed."},
        words="step {step}: checkpoint failed: {reason}",
        counts=("checkpoint_failures", "Saves of this process that failed."),
        shows={"checkpoint_error": "reason"},
    ),
    Event(
        "checkpointLate",
        "A save takes longer than usual while another one is due. Once for each save, and again if the training begins "
        "to wait.",
        {
            "step": "Steps done when it began.",
            "waits": "Whether the training waits for it.",
            "message": "One sentence.",
        },
    ),
    Event(
        "exported",
        "The model of a checkpoint is complete in the files of Hugging Face, as `export` requires.",
        {
            "step": "Steps done when the checkpoint was made.",
            "path": "Address of the folder.",
            "sizeBytes": "Size of the tensors.",
            "seconds": "Time since the checkpoint was committed, or since the process found it.",
        },
        words="step {step}: exported to {path}",
        counts=("exports", "Exports that this process completed."),
        change=lambda state, of, _: state.but(exported_step=max(of["step"], state.exported_step or 0)),
    ),
    Event(
        "exportFailed",
        "A process could not write its files of an export. The run goes on, and the process tries again if that can "
        "help.",
        {"step": "Steps done when the checkpoint was made.", "reason": "What failed."},
        every_process=True,
        words="step {step}: export failed: {reason}",
        counts=("export_failures", "Failed tries of exports of this process."),
    ),
    Event(
        "profiled",
        "The profile of a window of steps is stored below the checkpoint root.",
        {
            "step": "Its first step, counted from 1.",
            "steps": "Number of its steps.",
            "path": "Address of its folder.",
            "sizeBytes": "Size of the files of this process.",
            "mfu": "Model FLOPs utilisation over the last steps, between 0 and 1; absent if the device's peak is "
            "unknown.",
            "stepSecondsP50": "Median duration of the last steps of the same size, in seconds.",
            "stepSecondsP90": "90th percentile of it.",
            "stepSecondsP99": "99th percentile of it.",
        },
        every_process=True,
        words=lambda of: f"step {of['step']}: profile of {counted(of['steps'], 'step')} in {of['path']}",
    ),
    Event(
        "preempted",
        "A preemption notice came, and the process ends.",
        {
            "step": STEP,
            "saved": "What was committed: `step`, the last step; `inFlight`, only the save in flight; `none`, neither.",
            "message": "One sentence.",
        },
        every_process=True,
    ),
    Event(
        "hung",
        "No step or stage has ended within the limit of this process or of another one. The process ends.",
        {
            "seconds": "Time since a step or a stage last ended.",
            "limitSeconds": "Limit of that time.",
            "path": "Address of the file with the complete stacks, below the checkpoint root; "
            "absent if it could not be "
            "written.",
            "stacks": "Stacks of all threads of the process, cut to a bounded length.",
        },
        every_process=True,
        words="no step or stage has ended for {seconds:.0f} s, and the limit is {limit_seconds:.0f} s",
    ),
    Event(
        "done",
        "All steps are done and the last checkpoint is committed.",
        {"step": STEP, "message": "One sentence."},
        every_process=True,
    ),
    Event(
        "slow",
        "The own work of a process takes longer than that of the others, so they wait for it (`recovery.straggler`). "
        "Once, until it is as fast as they are.",
        {
            "step": STEP,
            "slowProcess": "Index of the process.",
            "ratio": "Its time, as a multiple of the median of the others.",
        },
        words="step {step}: the others wait for process {slow_process}, whose own work takes {ratio:.1f} times as long",
    ),
    Event(
        "collective",
        "A collective was measured (`task: measure`).",
        {
            "kind": "`all-reduce`, `all-gather` or `reduce-scatter`.",
            "over": "`within` each host, or slice of TPUs; `between` the devices of the same place in all of them; or "
            "`all` devices.",
            "devices": "Devices that took part together.",
            "sizeBytes": "The larger array on a device.",
            "seconds": "Duration.",
            "busBandwidth": "Bytes in a second over the links of a device: the bus bandwidth of NVIDIA's nccl-tests.",
            "promised": "The same by the hardware table; absent if it has no figure.",
        },
        words=_collective,
    ),
    Event("warning", "A failure that costs only time.", {"message": "One sentence."}, every_process=True),
    Event(
        "error",
        "The process ends early.",
        {
            "step": STEP,
            "cause": "Cause of the end, as in the termination report.",
            "exitCode": "The process's exit code.",
            "message": "One sentence for the user.",
        },
        every_process=True,
    ),
)
