"""Events of the start of a process, up to its first step."""

from collections.abc import Mapping
from typing import Any

from halcyon.telemetry.events.row import STEP, Event
from halcyon_api.counting import counted


def _joined(fields: Mapping[str, Any]) -> str:
    devices = counted(fields["devices"], "device")
    if fields["processes"] == 1:
        return f"on {devices}"
    return f"{counted(fields['processes'], 'process', 'processes')}, {devices} in {fields['seconds']:.1f} s"


def _placed(fields: Mapping[str, Any]) -> str:
    slices = fields.get("slices") or 1
    shape = f" {fields['topology']}" if fields.get("topology") else ""
    place = f"{counted(slices, 'slice')} of {fields['accelerator']}{shape}, {counted(fields['devices'], 'device')}"
    origin = fields.get("from_run") or fields.get("from_root")
    return f"trains on {place}" + (f"; begins from {origin}" if origin else "")


def _tokenized(fields: Mapping[str, Any]) -> str:
    done = "tokenized" if fields["finished"] else "tokenized so far"
    return (
        f"{fields['source']}: {counted(fields['tokens'], 'token')} of {counted(fields['documents'], 'document')} {done}"
    )


def _restored(fields: Mapping[str, Any]) -> str:
    start, path = f"start {fields['start']}: " if fields.get("start") else "", fields.get("path")
    if not path:
        return f"{start}begins at step 0 with new parameters"
    return f"{start}goes on from step {fields['step']} ({path})" if fields["step"] else f"{start}begins with {path}"


STARTING = (
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
        words=_joined,
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
            "overrides": "Objects that `halcyon.train` got in the place of sections of the document, each with its "
            "import path; empty if it has none: then only a program with the same objects can go on with the run.",
        },
        words=_placed,
        on_screen=False,
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
        words=_tokenized,
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
        "devices",
        "The devices of the process were measured before the first step (`recovery.straggler`).",
        {
            "flops": "Operations of a matrix product in a second, on a device; of a CPU, in float32.",
            "memoryBandwidth": "Bytes in a second that it reads and writes in its memory.",
            "hostBandwidth": "Bytes in a second that it copies from its host; absent for a CPU.",
            "promisedFlops": "Operations by the hardware table; absent if it has no figure.",
            "promisedMemoryBandwidth": "Bytes of its memory by the same table.",
        },
        every_process=True,
        words=lambda of: (
            f"a device computes {of['flops'] / 1e12:.2f} TFLOP/s and moves {of['memory_bandwidth'] / 1e9:.0f} GB/s"
        ),
    ),
    Event(
        "restored",
        "The state is ready: newly built, or restored from a checkpoint.",
        {
            "step": "Steps already done.",
            "path": "Path of the checkpoint below the root; absent for a new state.",
            "start": "Number of this start of the run; after a point the restart in a cluster. Absent with task "
            "`evaluate`.",
            "ownFiles": "Of a snapshot in memory: files that processes had in their own pods.",
            "peerFiles": "Of a snapshot in memory: files from other pods.",
            "seconds": "Time since the stage `restoring` began.",
        },
        words=_restored,
        shows={"resumed_step": "step"},
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
        "kept",
        "Parts of the model that the run does not train were copied into its root, for its exports.",
        {"message": "Which parts, with their tensors and bytes."},
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
            "step": STEP,
            "importsSeconds": "Interpreter start and imports.",
            "joinSeconds": "Waiting for the other processes.",
            "dataSeconds": "Waiting for the token caches: reading them, and tokenizing the text that they lack.",
            "restoreSeconds": "Building or restoring the state.",
            "compileSeconds": "Tracing, compiling and the first step.",
        },
        words=lambda of: f"first step after {sum(of[name] for name in of if name.endswith('_seconds')):.1f} s",
    ),
)
