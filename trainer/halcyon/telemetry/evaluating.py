"""Reports of an evaluation: its numbers by source, and a log line at intervals while it runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from halcyon.telemetry.tokenizing import EVENT_SECONDS
from halcyon_api.status.progress import Evaluated, SourceEvaluation

if TYPE_CHECKING:
    from halcyon.telemetry.evaluated_sets import Averages
    from halcyon.telemetry.evaluation import Evaluation


class LogInterval:
    """Decides when a log line about batches is due: every `EVENT_SECONDS`, and at the last batch."""

    def __init__(self) -> None:
        self._logged_at = -math.inf

    def due(self, now: float, *, last: bool) -> bool:
        """Whether a line is due at ``now``, in seconds of a monotonic clock."""
        if not last and now - self._logged_at < EVENT_SECONDS:
            return False
        self._logged_at = now
        return True


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """The fields of the event ``evaluation``."""
    answers = {"reward": -evaluation.loss, "pass_at": {str(k): rate for k, rate in evaluation.pass_at.items()}} if evaluation.passes else {}
    return answers | {
        "loss": evaluation.loss,
        "bits_per_byte": evaluation.bits_per_byte,
        "tokens": evaluation.tokens,
        "sequences": evaluation.sequences,
        "seconds": round(evaluation.seconds, 6),
    }


def averaged(averages: Averages) -> dict[str, Any]:
    """The fields of the event ``evaluation`` for several sources: micro averages, and macro averages in fields of their own."""
    macro = {"macro_loss": averages.macro_loss, "macro_bits_per_byte": averages.macro_bits_per_byte}
    return {**numbers(averages.micro), **macro}


def average_numbers(average: Evaluation | None) -> dict[str, Any]:
    """The fields of the event ``evaluation`` for the average of the parameters; none without one."""
    return {} if average is None else {"average_loss": average.loss, "average_bits_per_byte": average.bits_per_byte}


def with_source(found: Evaluated, source: str, evaluation: Evaluation) -> Evaluated:
    """Add the result of a source to `found`."""
    bits = evaluation.bits_per_byte
    entry = SourceEvaluation(
        source=source,
        loss=evaluation.loss if math.isfinite(evaluation.loss) else None,
        bits_per_byte=bits if bits is not None and math.isfinite(bits) else None,
        tokens=evaluation.tokens,
        sequences=evaluation.sequences,
    )
    return found.model_copy(update={"sources": [*found.sources, entry]})
