"""All events of the log: their fields, their sentences, and what they change in the state of a process.

The reference page is generated from this table, and tests compare the log with it.

All lines also have the fields of `COMMON`. Events with ``every_process`` are written by each process, the others by
process 0 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from halcyon.telemetry import sentences
from halcyon_api.counting import counted

COMMON = {
    "event": "Name of the event.",
    "time": "When it was written: RFC 3339 in UTC with milliseconds.",
    "run": "Name of the run.",
    "attempt": "Attempt, minted by the operator.",
    "restart": "JobSet restart inside the attempt.",
    "process": "Index of the process.",
}

_STEP = "Steps done."
_STEP_AND_MESSAGE = {"step": _STEP, "message": "One sentence."}


@dataclass(frozen=True)
class Event:
    """One kind of line."""

    name: str
    meaning: str
    fields: dict[str, str] = field(default_factory=dict)
    words: str | Callable[[Mapping[str, Any]], str] = "{message}"
    """The event as a sentence for people: a format of its fields, or a function of them."""
    counts: str = ""
    """Field of the state that is one greater after the event."""
    shows: Mapping[str, str] = field(default_factory=dict)
    """Fields of the state that then have the value of a field of the event; a text is cut."""
    every_process: bool = False
    open_fields: bool = False
    """Whether the event may have further fields."""


EVENTS = (
    Event(
        "start",
        "The process started. A further field gives its process id.",
        every_process=True,
        open_fields=True,
        words="process {process_id}",
    ),
    Event(
        "joined",
        "All processes have joined the process group.",
        {
            "processes": "Processes of the run.",
            "devices": "JAX devices of the run.",
            "seconds": "Duration of the join.",
        },
        every_process=True,
        words=sentences.joined,
    ),
    Event(
        "tokenized",
        "A part of a source's text is tokenized and, once it is finished, in the token cache.",
        {
            "source": "Name of the source.",
            "rows": "Rows read.",
            "documents": "Documents made from these rows.",
            "tokens": "Tokens of these documents.",
            "sizeBytes": "Bytes of text of these documents.",
            "shards": "Shards committed.",
            "finished": "Whether the cache is complete.",
        },
        every_process=True,
        words=sentences.tokenized,
    ),
    Event(
        "source",
        "The form of a source of conversations, which the document names or the first row shows, and what is left out "
        "of a source. Once for each start and source.",
        {
            "source": "Name of the source.",
            "form": "Name of the form, and the fields of a row that are read; absent without conversations.",
            "rows": "Rows tokenized so far.",
            "rejectedRows": "Rows of these that are left out, because their label says that the answer is a bad one.",
            "leftOut": "What else is left out: empty and bad rows; hidden, excluded, binary, other and bad files.",
            "unitsLeftOut": "Documents, conversations, pairs or prompts that are in no sequence; absent before the "
            "sequences are known.",
            "droppedTokens": "Tokens of these, and of a rest that fills no sequence.",
            "croppedTokens": "Tokens cut off what is too long for a sequence.",
            "message": "One sentence.",
        },
    ),
    Event(
        "restored",
        "The state is ready: newly built, or restored from a checkpoint.",
        {
            "step": "Steps already done.",
            "path": "Path of the checkpoint below the root; absent for a new state.",
            "start": "Number of this start of the run; after a point the restart in a cluster. Absent with task "
            "`evaluate`.",
            "seconds": "Time since the stage `restoring` began.",
        },
        words=sentences.restored,
        shows={"resumed_step": "step"},
    ),
    Event(
        "headRebuilt",
        "HEAD was lost, and was rebuilt from its copy and the checkpoints.",
        {"step": "Step of the restored checkpoint.", "reason": "What was wrong with HEAD."},
        words="HEAD was rebuilt from the checkpoints: {reason}",
        shows={"head_loss": "reason"},
    ),
    Event(
        "fallback",
        "A newer checkpoint did not verify, so an older one was restored.",
        {"step": "Step of the restored checkpoint.", "reason": "Why the newer ones did not verify."},
        words="fell back to step {step}: {reason}",
        shows={"fallback_reason": "reason"},
    ),
    Event(
        "attention",
        "A program that computes attention is compiled; one line for each implementation in it.",
        {"implementation": "Name of the implementation (`trainer.attention`).", "reason": "Why it was chosen."},
        words="attention: {implementation}, because {reason}",
    ),
    Event(
        "determinism",
        "Whether the steps of this process give the same bits when they are repeated.",
        {
            "determinism": "The value of `trainer.determinism` in effect: `fast` only on GPUs.",
            "meaning": "What follows from it.",
        },
        words="repeated steps: {determinism}; {meaning}",
        shows={"determinism": "determinism"},
    ),
    Event(
        "plan",
        "How a compiled step uses the devices, once the first step has ended. Bytes are those of one device.",
        {
            "plan": "The plan in one line, as in the status.",
            "batchSize": "Sequences of a step.",
            "sequenceLength": "Positions of a sequence.",
            "microbatches": "Parts of the batch, computed one after the other.",
            "remat": "The remat policy.",
            "unroll": "Blocks of the model in one iteration of the loop over them.",
            "parametersBytes": "Parameters.",
            "optimizerBytes": "Optimizer state, and the average of the parameters.",
            "offloadedBytes": "The part of it that is in the host's memory (`trainer.offload`); absent if nothing is.",
            "gradientsBytes": "Gradients, in float32.",
            "activationsBytes": "All else that the step needs for a time; absent if the compiler does not say.",
            "stepBytes": "The whole step; absent if the compiler does not say.",
            "deviceBytes": "Memory of a device; absent if it is not known.",
            "kernels": "Calls of kernels and of libraries in a step: the kernel, the name of "
            "the call, and their number.",
            "collectives": "Collectives of a step by kind and mesh axes: the sum of their full "
            "arrays, and their number.",
        },
        words="plan: {plan}",
        shows={"plan": "plan"},
    ),
    Event(
        "compiled",
        "The first step of this process ended.",
        {
            "step": _STEP,
            "importsSeconds": "Interpreter start and imports.",
            "joinSeconds": "Waiting for the other processes.",
            "dataSeconds": "Waiting for the token caches: reading them, and tokenizing the text that they lack.",
            "restoreSeconds": "Building or restoring the state.",
            "compileSeconds": "Tracing, compiling and the first step.",
        },
        words=lambda of: f"first step after {sum(of[name] for name in of if name.endswith('_seconds')):.1f} s",
    ),
    Event(
        "step",
        "A step ended. Written every `trainer.logEverySteps` steps and after the last one. Further fields: the "
        "objective's metrics.",
        {
            "step": _STEP,
            "loss": "Training loss of the step before its update, nats per token: exactly the device's float32.",
            "gradientNorm": "Global norm of the gradient before clipping.",
            "learningRate": "Learning rate of the step.",
            "tokens": "Targets that counted in the loss of the step.",
            "tokensPerSecond": "Tokens trained on per second, over the last steps, without evaluations and saves "
            "between them; absent for the first.",
            "etaSeconds": "Seconds until the last step at that speed, with the share of evaluations and saves so "
            "far; absent for the first.",
            "dataWaitSeconds": "Time that the step waited for its batch.",
        },
        open_fields=True,
    ),
    Event(
        "skipped",
        "The update of a step was dropped, by the policy `recovery.divergence`; model and optimizer state are "
        "unchanged.",
        {"step": _STEP, "reason": "The numbers of the step that caused it."},
        words="step {step}: the update was dropped: {reason}",
        counts="skipped_steps",
    ),
    Event(
        "rolledBack",
        "The run went back to an earlier checkpoint, by the policy `recovery.divergence`, and leaves out the batches "
        "since then.",
        {
            "step": "The step that caused it.",
            "toStep": "Step of the checkpoint.",
            "batches": "Batches left out.",
            "reason": "The numbers of the step.",
        },
        words=lambda of: (
            f"step {of['step']}: went back to step {of['to_step']} and left out "
            f"{counted(of['batches'], 'batch', 'batches')}: {of['reason']}"
        ),
        counts="rollbacks",
    ),
    Event(
        "audited",
        "An audit found all numbers right (`recovery.audit`).",
        {"step": _STEP, "seconds": "Duration of the audit."},
        words="step {step}: the audit found all numbers right",
        counts="audits",
        shows={"audited_step": "step"},
    ),
    Event(
        "corrupted",
        "An audit found wrong numbers (`recovery.audit`). The run goes back, or only reports it.",
        {
            "step": _STEP,
            "processes": "Indices of the processes of which at least one computed or holds wrong numbers.",
            "message": "One sentence.",
        },
        counts="corruptions",
    ),
    Event(
        "watch",
        "Numbers of each parameter, or of each block's output, in a watched step (`telemetry.watch`); one line for "
        "each statistic.",
        {
            "step": _STEP,
            "of": "`parameters`, `gradients` (before clipping) or `updates`.",
            "statistic": "`norm`, `rms`, or `ratio` of the norms of update and parameter.",
            "parameters": "Paths of the parameters.",
            "values": "For each parameter its number, or a list with one for each layer.",
        },
        words=lambda of: (
            f"step {of['step']}: {of['statistic']} of the {of['of']} of {counted(len(of['parameters']), 'array')}"
        ),
    ),
    Event(
        "evaluation",
        "The held-out part was evaluated.",
        {
            "step": "Steps done; with task `evaluate`, the step of the checkpoint.",
            "source": "Source of the held-out part, with task `evaluate` or `evaluation.bySource`; absent for several "
            "sources together.",
            "tag": "Tag of several sources, with `evaluation.bySource.tags`.",
            "loss": "Nats per token; with the objective `policy` minus the mean reward.",
            "reward": "With the objective `policy`: mean reward of the answers to the held-out prompts.",
            "passAt": "With the objective `policy`: by k, the mean of pass@k over the prompts.",
            "bitsPerByte": "Bits per byte of text; absent if the tokens have no bytes.",
            "averageLoss": "The same loss of the average of the parameters (`average`); absent without one.",
            "averageBitsPerByte": "The same bits per byte of that average.",
            "tokens": "Tokens predicted.",
            "sequences": "Sequences evaluated.",
            "seconds": "Duration of the evaluation.",
            "macroLoss": "Of a tag: mean of its sources' losses; `loss` is the mean over their tokens.",
            "macroBitsPerByte": "Of a tag: mean of its sources' bits per byte; absent if a source has none.",
        },
        words=sentences.evaluation,
    ),
    Event(
        "macroEvaluation",
        "The mean of the results of all sources, with `evaluation.bySource`; the event `evaluation` has the mean over "
        "tokens.",
        {
            "step": _STEP,
            "loss": "Nats per token.",
            "bitsPerByte": "Bits per byte of text; absent if a source has none.",
        },
        words=lambda of: f"step {of['step']}: mean held-out loss of the sources {of['loss']:z.4f}{sentences.bits(of)}",
    ),
    Event(
        "task",
        "A task (`trainer.evaluation.tasks`) was run on the model. The averages `core` and `chat-core` have lines of "
        "their own.",
        {
            "step": "Steps done; with task `evaluate`, the step of the checkpoint.",
            "task": "Name of the task.",
            "accuracy": "Share of right answers; absent without right answers.",
            "standardError": "Standard error of the accuracy; absent for one example.",
            "centred": "Accuracy on a scale where random answers have 0; of an average, the mean of its tasks' centred "
            "accuracies.",
            "bitsPerByte": "Bits per byte of given answers; absent without given answers.",
            "examples": "Number of examples; absent for an average.",
            "tasks": "Of the average `core`: number of its tasks. Only the average of all 22 is CORE.",
            "seconds": "Duration; absent for an average.",
        },
        words=lambda of: f"step {of['step']}: {sentences.task(of)}",
    ),
    Event(
        "sample",
        "What the model writes after a prompt, as `telemetry.sample` asks. A character that controls a terminal is "
        "U+FFFD.",
        {"step": _STEP, "prompt": "The prompt.", "text": "The text after it."},
        words="step {step}, the model writes: {prompt}{text}",
    ),
    Event(
        "placed",
        "What the process group trains on, and where its run comes from: the facts of the report of a chain.",
        {
            "accelerator": "Accelerator type of the document.",
            "topology": "Topology of a slice.",
            "slices": "Number of slices.",
            "provisioning": "How the capacity is bought.",
            "deviceKind": "Kind of the devices, as JAX names it.",
            "devices": "JAX devices of the run.",
            "chips": "Chips of the run, for its cost; of processors, the number of hosts.",
            "pricePerChipHour": "Price of a chip for an hour, as the document gives it.",
            "fromRun": "Run that this one begins from.",
            "fromRoot": "Its root; of a model of Hugging Face, its address.",
            "fromStep": "Step of the checkpoint, if the document names one.",
            "afterRun": "Run that had to succeed before this one began.",
            "given": "Objects that `halcyon.train` was given in the place of sections of the document, each with its "
            "import path; empty if it has none: then only a program with the same objects can go on with the run.",
        },
        words=sentences.placed,
    ),
    Event(
        "branched",
        "The run began from a checkpoint of another run, or with its weights. Written once, before the first step.",
        {
            "fromRun": "Name of the other run.",
            "fromRoot": "Its checkpoint root.",
            "step": "Step of the checkpoint.",
            "weightsOnly": "Whether only the weights were taken.",
            "dataPosition": "`from.dataPosition`; absent if the document does not give it.",
            "changes": "A clause for each field that decides numbers and differs.",
            "message": "All of it, as a sentence.",
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
            "path": "Path of the checkpoint below the root.",
            "sizeBytes": "Size of its files.",
            "blockedSeconds": "Time that the loop waited for the copy to the host; absent if it is not known.",
        },
        words=lambda of: f"step {of['step']}: checkpoint committed, {of['size_bytes'] / 1e6:.1f} MB",
        counts="checkpoints",
    ),
    Event(
        "checkpointVerified",
        "A checkpoint was read back, as `checkpoint.verify` requires, and every byte is intact.",
        {"step": "Steps done when it was made."},
        words="step {step}: the checkpoint was read back, and every byte is intact",
    ),
    Event(
        "checkpointFailed",
        "A save failed, or a committed checkpoint was found damaged. The run goes on, and the next save tries again.",
        {"step": _STEP, "reason": "What failed."},
        words="step {step}: checkpoint failed: {reason}",
        counts="checkpoint_failures",
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
        counts="exports",
    ),
    Event(
        "exportFailed",
        "A process could not write its files of an export. The run goes on, and the process tries again if that can "
        "help.",
        {"step": "Steps done when the checkpoint was made.", "reason": "What failed."},
        every_process=True,
        words="step {step}: export failed: {reason}",
        counts="export_failures",
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
            "step": _STEP,
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
    Event("done", "All steps are done and the last checkpoint is committed.", _STEP_AND_MESSAGE, every_process=True),
    Event("warning", "A failure that costs only time.", {"message": "One sentence."}, every_process=True),
    Event(
        "error",
        "The process ends early.",
        {
            "step": _STEP,
            "cause": "Cause of the end, as in the termination report.",
            "exitCode": "The process's exit code.",
            "message": "One sentence for the user.",
        },
        every_process=True,
    ),
)

BY_NAME = {event.name: event for event in EVENTS}


def sentence(name: str, fields: Mapping[str, Any]) -> str:
    """One event as a sentence."""
    words, known = BY_NAME[name].words if name in BY_NAME else Event.words, {"step": 0, **fields}
    with suppress(KeyError):  # an event of another version
        return words.format_map(known) if isinstance(words, str) else words(known)
    details = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in fields.items() if value is not None)
    return f"{name}: {details}" if details else name
