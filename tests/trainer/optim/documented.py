"""The settings that docs/reference/optimizers.md recommends for each rule. They were compared on the demo's model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recommended:
    """The settings of a run that had AdamW, for another rule.

    Attributes:
        rate: Factor of ``learningRate``.
        decay: Factor of ``weightDecay``.
        schedule: ``schedule`` in place of that of the run, with the warm-up of the run. None: as before.
        options: Options of the rule.
        by_adamw: Roles of the parameters that AdamW changes, in a group with AdamW's own rate.
    """

    rate: float = 1.0
    decay: float = 1.0
    schedule: str | None = None
    options: dict[str, float] = field(default_factory=dict[str, float])
    by_adamw: tuple[str, ...] = ()

    def optimizer(
        self, rule: str, learning_rate: float, weight_decay: float, schedule: dict[str, Any]
    ) -> dict[str, Any]:
        """``spec.optimizer`` of the run with this rule. The schedule is one with `warmupSteps`."""
        if self.schedule is not None:
            schedule = {self.schedule: {"warmupSteps": next(iter(schedule.values()))["warmupSteps"]}}
        group = {"roles": [*self.by_adamw], "rule": "adamw", "learningRate": self.rate_of_adamw}
        groups = {"groups": [group]} if self.by_adamw else {}
        common = {
            "learningRate": learning_rate * self.rate,
            "weightDecay": weight_decay * self.decay,
            "schedule": schedule,
        }
        return {**common, rule: self.options, **groups}

    @property
    def rate_of_adamw(self) -> float:
        """The factor that gives a group the rate of AdamW."""
        return round(1 / self.rate, 2)

    def sentence(self) -> str:
        """The settings for a table."""
        parts = [
            f"{name} x {factor:g}" for name, factor in (("rate", self.rate), ("decay", self.decay)) if factor != 1.0
        ]
        parts += [f"schedule `{self.schedule}`"] if self.schedule else []
        parts += [f"`{name}`: {value:g}" for name, value in self.options.items()]
        if self.by_adamw:
            parts.append(
                f"a group `{{roles: [{', '.join(self.by_adamw)}], rule: adamw, learningRate: {self.rate_of_adamw:g}}}`"
            )
        return ", ".join(parts) or "as AdamW"


@dataclass(frozen=True)
class _Table:
    rows: dict[str, Recommended] = field(default_factory=dict[str, Recommended])

    def of(self, rule: str) -> Recommended:
        """The settings of a rule. A rule without a row has the defaults, and AdamW's rate and decay."""
        return self.rows.get(rule, Recommended())


RECOMMENDED = _Table(
    {
        "lion": Recommended(rate=0.2, decay=5.0, by_adamw=("embedding",)),
        "sophia": Recommended(rate=0.14, decay=7.0, options={"beta1": 0.9, "beta2": 0.9}, by_adamw=("embedding",)),
        "adafactor": Recommended(rate=10.0, decay=0.1),
        "adamMini": Recommended(rate=0.5),
        "adamH": Recommended(options={"matrixRate": 4.0}, by_adamw=("head",)),
    }
)
