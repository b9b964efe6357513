"""Groups of parameters with settings of their own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from halcyon_api.base import Rule, RuledModel
from halcyon_api.spec.rules.common import Decay, Positive

RuleName = Literal[
    "adamw", "lion", "muon", "normuon", "muonH", "soap", "soapMuon", "kron", "scion", "muonAdamw",
    "adafactor", "adopt", "mars", "ademamix", "scheduleFree", "adamMini", "adamH", "sophia",
]  # fmt: skip
"""The update rules, by their names in documents: the kinds of `halcyon_api.spec.optimizer.OptimizerSpec`."""

RoleName = Literal["matrix", "embedding", "head", "norm", "bias", "router", "expert", "convolution", "adapter"]
"""The roles of parameters (`halcyon.models.parameters.Role`)."""

OWN_SETTINGS = ("beta1", "beta2", "epsilon")
"""The settings of its rule that a group may have, by their names in Python and in documents."""

_OF_UPDATES = ("learningRate", "weightDecay", "rule", *OWN_SETTINGS)

Pattern = Annotated[str, StringConstraints(max_length=253), Field(min_length=1)]


class GroupSpec(RuledModel):
    """Parameters by path pattern, by role, or by both, with settings of their own."""

    rules = (
        Rule(
            "has(self.match) || has(self.roles)",
            lambda self: self.match is not None or self.roles is not None,
            "a group needs match or roles; give a pattern such as '*.attention.*', or roles such as [embedding]",
        ),
        Rule(
            f"!has(self.frozen) || !self.frozen || !({' || '.join(f'has(self.{name})' for name in _OF_UPDATES)})",
            lambda self: not self.frozen or not any(name in _OF_UPDATES for name in self.document()),
            "a frozen group is not updated; leave out its other settings, or frozen",
        ),
    )

    match: Pattern | None = Field(default=None, description="Pattern of paths; `halcyon show optimizer` lists them.")
    roles: Annotated[list[RoleName], Field(min_length=1, max_length=9)] | None = Field(
        default=None, description="Roles."
    )
    learning_rate: float | None = Field(default=None, gt=0, description="Factor of `optimizer.learningRate`.")
    weight_decay: float | None = Field(default=None, ge=0, description="Weight decay, whatever the roles.")
    rule: RuleName | None = Field(default=None, description="Rule with its defaults. Default: that of the run.")
    beta1: Decay | None = Field(default=None, description="`beta1` of the rule.")
    beta2: Decay | None = Field(default=None, description="`beta2` of the rule.")
    epsilon: Positive | None = Field(default=None, description="`epsilon` of the rule.")
    frozen: bool | None = Field(default=None, description="true: no gradient, no optimizer state, no update.")

    @property
    def own_settings(self) -> dict[str, float]:
        """The settings of its rule that the group has."""
        return {name: value for name in OWN_SETTINGS if (value := getattr(self, name)) is not None}
