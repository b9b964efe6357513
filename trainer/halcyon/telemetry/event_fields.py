"""The reports of the loop as fields of events: what is evaluated, watched and profiled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halcyon.telemetry.clock import microseconds
from halcyon_api.status.progress import Evaluated, SourceEvaluation

if TYPE_CHECKING:
    import numpy as np

    from halcyon.telemetry.evaluation import Averages, Evaluation
    from halcyon.telemetry.state import State

MOST_PARAMETERS = 256
"""Parameters that the metrics show.

A custom model may have any number of arrays, but the number of time series is bounded.
"""
MFU_FORMULA = "tokensPerSecond x flopsPerToken / peakFlopsPerSecond"
"""Model FLOPs utilisation (Chowdhery et al. 2022, PaLM, appendix B): all devices of the run together."""
_PERCENTILES = (50, 90, 99)


def evaluation_numbers(evaluation: Evaluation) -> dict[str, Any]:
    """The fields of the event ``evaluation``."""
    answers = (
        {"reward": -evaluation.loss, "pass_at": {str(k): rate for k, rate in evaluation.pass_at.items()}}
        if evaluation.passes
        else {}
    )
    return answers | {
        "loss": evaluation.loss,
        "bits_per_byte": evaluation.bits_per_byte,
        "tokens": evaluation.tokens,
        "sequences": evaluation.sequences,
        "seconds": evaluation.seconds,
    }


def averaged(averages: Averages) -> dict[str, Any]:
    """The fields of the event ``evaluation`` for several sources: micro averages, and macro averages in fields of their
    own.
    """
    macro = {"macro_loss": averages.macro_loss, "macro_bits_per_byte": averages.macro_bits_per_byte}
    return {**evaluation_numbers(averages.micro), **macro}


def with_source(found: Evaluated, source: str, evaluation: Evaluation) -> Evaluated:
    """Add the result of a source to `found`."""
    entry = SourceEvaluation(
        source=source,
        loss=finite(evaluation.loss),
        bits_per_byte=finite(evaluation.bits_per_byte),
        tokens=evaluation.tokens,
        sequences=evaluation.sequences,
    )
    return found.model_copy(update={"sources": [*found.sources, entry]})


@dataclass(frozen=True)
class WatchedParameter:
    """A number of one parameter in a watched step, over all its layers."""

    what: str
    """`parameters`, `gradients`, `updates` or `activations`."""
    statistic: str
    """`norm`, or `ratio` of update and parameter."""
    path: str
    value: float


Groups = Mapping[tuple[str, str], Mapping[str, "np.ndarray"]]
"""The arrays of a watched step by path, for each (what, statistic)."""


def watched_groups(arrays: Mapping[str, np.ndarray]) -> Groups:
    """The arrays of a watched step by ``WHAT/STATISTIC/PARAMETER``, grouped."""
    groups: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for name, values in arrays.items():
        what, statistic, path = name.split("/", 2)
        groups.setdefault((what, statistic), {})[path] = values
    return groups


def watched_parameters(groups: Groups) -> tuple[WatchedParameter, ...]:
    """The numbers that the metrics show: the norm of the whole array, or the greatest ratio of a layer."""

    def over_layers(statistic: str, values: np.ndarray) -> float:
        return float((values.astype("float64") ** 2).sum() ** 0.5 if statistic == "norm" else values.max())

    return tuple(
        WatchedParameter(what, statistic, path, over_layers(statistic, values))
        for (what, statistic), found in groups.items()
        if statistic in ("norm", "ratio")
        for path, values in list(found.items())[:MOST_PARAMETERS]
    )


def speed(state: State) -> dict[str, Any]:
    """The speed of a process, as JSON: percentiles of the last steps of one size, MFU, and seconds by cause."""
    numbers: dict[str, Any] = {
        "stepSeconds": percentiles(state.steps_in_progress[0]),
        "tokensPerSecond": state.tokens_per_second,
        "flopsPerToken": state.flops_per_token,
        "peakFlopsPerSecond": state.run_plan.peak_flops_per_second,
        "dataWaitSeconds": microseconds(state.data_wait_seconds),
        "secondsByCause": state.seconds.model_dump(by_alias=True),
    }
    return numbers if state.mfu is None else {**numbers, "mfu": state.mfu, "mfuFormula": MFU_FORMULA}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The durations that 50, 90 and 99 % of the steps do not exceed (nearest rank), and the number of steps; empty
    without steps.
    """
    ordered = sorted(seconds)
    if not ordered:
        return {}
    ranks = {f"p{share}": microseconds(ordered[math.ceil(len(ordered) * share / 100) - 1]) for share in _PERCENTILES}
    return {**ranks, "count": len(ordered)}


def step_percentiles(numbers: Mapping[str, Any]) -> dict[str, float]:
    """The percentiles of `speed`, as fields of the event ``profiled``."""
    ranks: Mapping[str, float] = numbers.get("stepSeconds") or {}
    return {f"step_seconds_{name}": value for name, value in ranks.items() if name != "count"}


def finite(value: float | None) -> float | None:
    """None for infinity and NaN, which ``/status`` cannot express; the log has them."""
    return None if value is None or not math.isfinite(value) else float(value)


def harmless(text: str) -> str:
    """A text of a model without characters that control a terminal or turn the direction of text: U+FFFD replaces
    them.
    """
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
