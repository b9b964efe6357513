"""Reports of profiles, and the speed of the steps in numbers that a profile keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from halcyon.telemetry.clock import microseconds
from halcyon.telemetry.reports import Reports

if TYPE_CHECKING:
    from halcyon.telemetry.profiles import Kept

PERCENTILES = (50, 90, 99)
MFU_FORMULA = "tokensPerSecond x flopsPerToken / peakFlopsPerSecond"
"""Model FLOPs utilisation (Chowdhery et al. 2022, PaLM, appendix B): all devices of the run together."""


class ProfileReports(Reports):
    """The reports of profiles."""

    def speed(self) -> dict[str, Any]:
        """The speed of this process, as JSON: percentiles of the last steps of one size, MFU, and seconds by cause since the start."""
        with self._lock:
            run = self._run
            durations = run.durations.of_steps_in_progress(run.step)[0]
            plan, tokens_per_second = run.plan, run.tokens_per_second
            seconds = run.account.until(run.facts.stage, self._clock.monotonic())
            waited = run.facts.tallies.data_wait_seconds
        numbers: dict[str, Any] = {
            "stepSeconds": percentiles(durations),
            "tokensPerSecond": tokens_per_second,
            "flopsPerToken": plan.flops_per_token,
            "peakFlopsPerSecond": plan.peak_flops_per_second,
            "dataWaitSeconds": microseconds(waited),
            "secondsByCause": seconds.model_dump(by_alias=True),
        }
        if tokens_per_second is not None and plan.flops_per_token is not None and plan.peak_flops_per_second:
            numbers["mfu"] = tokens_per_second * plan.flops_per_token / plan.peak_flops_per_second
            numbers["mfuFormula"] = MFU_FORMULA
        return numbers

    def profiled(self, step: int, steps: int, kept: Kept, numbers: Mapping[str, Any]) -> None:
        """Report a stored profile. For any thread.

        Args:
            step: Its first step.
            steps: Its number of steps.
            kept: What was stored.
            numbers: The numbers of the process (`speed`).
        """
        self._event(
            "profiled", step=step, steps=steps, path=kept.path, size_bytes=kept.size_bytes, mfu=numbers.get("mfu"), **_flat(numbers)
        )
        if kept.left_out:
            self._event("warning", message=f"the profile of step {step} lacks {', '.join(kept.left_out)}, because they are too large")


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The durations that 50, 90 and 99 % of the steps do not exceed (nearest rank), and the number of steps; empty without steps."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    ranks = {f"p{share}": ordered[math.ceil(len(ordered) * share / 100) - 1] for share in PERCENTILES}
    return {**{name: microseconds(value) for name, value in ranks.items()}, "count": len(ordered)}


def _flat(numbers: Mapping[str, Any]) -> dict[str, Any]:
    found: Mapping[str, float] = numbers.get("stepSeconds") or {}
    return {f"step_seconds_{name}": value for name, value in found.items() if name != "count"}
