"""Events of the steps and the evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from halcyon.telemetry.events.row import STEP, Event
from halcyon_api.counting import counted
from halcyon_api.result_documents import task_title
from halcyon_api.status.evaluation import Evaluation, with_source

if TYPE_CHECKING:
    from halcyon.telemetry.state import State


def _evaluation(fields: Mapping[str, Any]) -> str:
    part = fields.get("source") or fields.get("tag")
    where = f"step {fields['step']}" + (f", {part}" if part else "")
    if "pass_at" in fields:
        passes = ", ".join(f"pass@{k} {rate:z.4f}" for k, rate in fields["pass_at"].items())
        return f"{where}: held-out reward {fields['reward']:z.4f} of {counted(fields['sequences'], 'prompt')}, {passes}"
    of = f" of {counted(fields['sequences'], 'sequence')}" if "sequences" in fields else ""
    average = f"; of the average {fields['average_loss']:z.4f}" if fields.get("average_loss") is not None else ""
    return f"{where}: held-out loss {fields['loss']:z.4f}{of}{_bits(fields)}{average}"


def _evaluated(state: State, of: Mapping[str, Any], report: tuple[Evaluation, Evaluation | None] | None) -> State:
    if report is None:  # a part of an evaluation while the run trains
        return state
    evaluation, average = report
    if (source := of.get("source")) is None:
        losses = {"evaluation_loss": evaluation.loss, "average_loss": average and average.loss}
        return state.plus(evaluations=1).but(bits_per_byte=evaluation.bits_per_byte, **losses)
    return state if state.evaluated is None else state.but(evaluated=with_source(state.evaluated, source, evaluation))


def _bits(fields: Mapping[str, Any]) -> str:
    """The bits per byte of an evaluation as the end of a sentence; empty without them."""
    return f", {fields['bits_per_byte']:z.4f} bits per byte" if fields.get("bits_per_byte") is not None else ""


def _task(fields: Mapping[str, Any]) -> str:
    titles = {
        "accuracy": "",
        "standard_error": "standard error ",
        "centred": "centred ",
        "bits_per_byte": "bits per byte ",
        "word_error_rate": "word error rate ",
    }
    numbers = (f"{title}{fields[key]:z.4f}" for key, title in titles.items() if fields.get(key) is not None)
    return f"step {fields['step']}: {task_title(fields['task'], fields.get('tasks'))} {', '.join(numbers)}"


TRAINING = (
    Event(
        "step",
        "A step ended. Written every `trainer.logEverySteps` steps and after the last one. Further fields: the "
        "objective's metrics.",
        {
            "step": STEP,
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
        {"step": STEP, "reason": "The numbers of the step that caused it."},
        words="step {step}: the update was dropped: {reason}",
        counts=(
            "skipped_steps",
            "Steps of this process whose update was dropped, by the policy `recovery.divergence`.",
        ),
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
        counts=("rollbacks", "Returns of this process to an earlier checkpoint, by the policy `recovery.divergence`."),
        change=lambda state, of, _: state.went_back(of["to_step"]),
    ),
    Event(
        "audited",
        "An audit found all numbers right (`recovery.audit`).",
        {"step": STEP, "seconds": "Duration of the audit."},
        words="step {step}: the audit found all numbers right",
        counts=("audits", "Audits of this process that found all numbers right (`recovery.audit`)."),
        shows={"audited_step": "step"},
    ),
    Event(
        "corrupted",
        "An audit found wrong numbers (`recovery.audit`). The run goes back, or only reports it.",
        {
            "step": STEP,
            "processes": "Indices of the processes of which at least one computed or holds wrong numbers.",
            "message": "One sentence.",
        },
        counts=("corruptions", "Audits of this process that found wrong numbers (`recovery.audit`)."),
    ),
    Event(
        "watch",
        "Numbers of each parameter, or of each block's output, in a watched step (`telemetry.watch`); one line for "
        "each statistic.",
        {
            "step": STEP,
            "of": "`parameters`, `gradients` (before clipping) or `updates`.",
            "statistic": "`norm`, `rms`, or `ratio` of the norms of update and parameter.",
            "parameters": "Paths of the parameters.",
            "values": "For each parameter its number, or a list with one for each layer.",
        },
        on_screen=False,
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
        words=_evaluation,
        change=_evaluated,
    ),
    Event(
        "macroEvaluation",
        "The mean of the results of all sources, with `evaluation.bySource`; the event `evaluation` has the mean over "
        "tokens.",
        {
            "step": STEP,
            "loss": "Nats per token.",
            "bitsPerByte": "Bits per byte of text; absent if a source has none.",
        },
        words=lambda of: f"step {of['step']}: mean held-out loss of the sources {of['loss']:z.4f}{_bits(of)}",
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
            "wordErrorRate": "Words that are heard wrong, for each word that is said; absent without sounds.",
            "examples": "Number of examples; absent for an average.",
            "tasks": "Of the average `core`: number of its tasks. Only the average of all 22 is CORE.",
            "seconds": "Duration; absent for an average.",
        },
        words=_task,
    ),
    Event(
        "sample",
        "What the model writes after a prompt, as `telemetry.sample` asks. A character that controls a terminal is "
        "U+FFFD.",
        {"step": STEP, "prompt": "The prompt.", "text": "The text after it."},
        words="step {step}, the model writes: {prompt}{text}",
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
)
