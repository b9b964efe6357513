"""Every event of the log, with its fields: the table that the reference is made from and the log is tested against.

All lines also have the fields of `COMMON`. Events with ``every_process`` are written by each process, the others by process 0 alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

COMMON = {
    "event": "Name of the event.",
    "time": "When it was written: RFC 3339 in UTC with milliseconds.",
    "run": "Name of the run.",
    "attempt": "Attempt, minted by the operator.",
    "restart": "JobSet restart inside the attempt.",
    "process": "Index of the process among all.",
}

_STEP = "Steps done."
_STEP_AND_MESSAGE = {"step": _STEP, "message": "One sentence."}


@dataclass(frozen=True)
class Event:
    """One kind of line."""

    name: str
    meaning: str
    fields: dict[str, str] = field(default_factory=dict)
    every_process: bool = False
    open_fields: bool = False
    """Whether further fields may occur."""


EVENTS = (
    Event("start", "The process began. Further fields name versions and the place of the run.", every_process=True, open_fields=True),
    Event(
        "joined",
        "All processes know each other.",
        {"processes": "Processes of the run.", "devices": "JAX devices of the run.", "seconds": "How long it took."},
        every_process=True,
    ),
    Event(
        "tokenized",
        "A part of a source's text is tokenized and, once it is finished, in the token cache.",
        {
            "source": "Name of the source.",
            "rows": "Rows read.",
            "documents": "Documents made of them.",
            "tokens": "Their tokens.",
            "sizeBytes": "Their bytes of text.",
            "shards": "Shards committed.",
            "finished": "Whether the cache is whole.",
        },
        every_process=True,
    ),
    Event(
        "restored",
        "The state is there, built anew or read from a checkpoint.",
        {
            "step": "Steps done before.",
            "path": "Place of the checkpoint below the root; absent for a new state.",
            "seconds": "How long it took.",
        },
    ),
    Event(
        "fallback",
        "A newer checkpoint did not verify, so an older one was restored.",
        {"step": "Step of the restored checkpoint.", "reason": "What is wrong with the newer one."},
    ),
    Event(
        "compiled",
        "The first step of this process ended.",
        {
            "step": _STEP,
            "importsSeconds": "Interpreter start and imports.",
            "joinSeconds": "Waiting for the other processes.",
            "dataSeconds": "Waiting for the token caches: looking for them, and tokenizing what they did not hold.",
            "restoreSeconds": "Building or restoring the state.",
            "compileSeconds": "Tracing, compiling and the first step.",
        },
    ),
    Event(
        "step",
        "A step ended. Written after every `trainer.logEverySteps` steps and the last one. Further fields: the objective's metrics.",
        {
            "step": _STEP,
            "loss": "Training loss of the step, nats per token: exactly the device's float32.",
            "gradientNorm": "Global norm of the gradient before clipping.",
            "learningRate": "Learning rate of the step.",
            "tokens": "Targets that counted in the loss of the step.",
            "tokensPerSecond": "Tokens trained on per second, over the last steps; absent for the first.",
            "etaSeconds": "Seconds until the last step at that speed; absent for the first.",
            "dataWaitSeconds": "How long the step waited for its batch.",
        },
        open_fields=True,
    ),
    Event(
        "skipped",
        "The update of a step was dropped, as `recovery.divergence` has it; model and optimizer are as they were before it.",
        {"step": _STEP, "reason": "What was wrong with it."},
    ),
    Event(
        "evaluation",
        "The held-out part was evaluated.",
        {
            "step": "Steps done; with task `evaluate`, when the checkpoint was made.",
            "source": "Source whose held-out part it is, with task `evaluate`; absent for that of all sources together.",
            "loss": "Nats per token.",
            "bitsPerByte": "Bits per byte of text; absent where the tokens stand for no text.",
            "tokens": "Tokens predicted.",
            "sequences": "Sequences evaluated.",
            "seconds": "How long it took.",
        },
    ),
    Event(
        "evaluating",
        "Batches of a run of task `evaluate` are done. Written every ten seconds, and after the last one.",
        {
            "batch": "Batches done, over all attempts.",
            "batches": "Batches of the run.",
            "tokensPerSecond": "Tokens evaluated per second, over the last batches; absent for the first.",
            "etaSeconds": "Seconds until the last batch at that speed; absent for the first.",
        },
    ),
    Event(
        "checkpoint",
        "A checkpoint was committed.",
        {
            "step": "Steps done when it was made.",
            "path": "Its place below the root.",
            "sizeBytes": "Size of its files.",
            "blockedSeconds": "How long the loop waited for the copy to the host; absent where it is not known.",
        },
    ),
    Event(
        "checkpointVerified",
        "A checkpoint was read back whole, as `checkpoint.verify` has it, and every byte is what was written.",
        {"step": "Steps done when it was made."},
    ),
    Event("checkpointFailed", "A save failed. It is tried again at the next one.", {"step": _STEP, "reason": "Why."}),
    Event(
        "preempted",
        "A notice came and the process leaves.",
        {"step": _STEP, "saved": "`step`, `inFlight` or `none`: what was brought to a commit.", "message": "One sentence."},
        every_process=True,
    ),
    Event(
        "hung",
        "Nothing has ended for longer than the limit. The process ends.",
        {
            "seconds": "How long nothing has ended.",
            "limitSeconds": "How long that may be.",
            "path": "File below the checkpoint root with the whole of the stacks; absent where it could not be written.",
            "stacks": "What all threads of the process were doing, cut to a bounded length.",
        },
        every_process=True,
    ),
    Event("done", "All steps are done and the last checkpoint is committed.", _STEP_AND_MESSAGE, every_process=True),
    Event("warning", "Something failed that costs time and nothing else.", {"message": "One sentence."}, every_process=True),
    Event(
        "error",
        "The process ends early.",
        {
            "step": _STEP,
            "cause": "Why, in one word of the termination report.",
            "exitCode": "The process's exit code.",
            "message": "One sentence for the user.",
        },
        every_process=True,
    ),
)

BY_NAME = {event.name: event for event in EVENTS}
