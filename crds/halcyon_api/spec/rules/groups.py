"""Groups of parameters with settings of their own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from halcyon_api.base import Rule, RuledModel

RuleName = Literal[
    "adamw", "lion", "muon", "normuon", "muonH", "soap", "soapMuon", "kron", "scion",
    "adafactor", "adopt", "mars", "ademamix", "scheduleFree", "adamMini", "adamH", "sophia",
]  # fmt: skip
"""The update rules, by their names in documents: the kinds of `halcyon_api.spec.optimizer.OptimizerSpec`."""

RoleName = Literal["matrix", "embedding", "head", "norm", "bias", "router", "expert", "convolution", "adapter"]
"""The roles of parameters (`halcyon.models.parameters.Role`)."""

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
            "!has(self.frozen) || !self.frozen || !(has(self.learningRate) || has(self.weightDecay) || has(self.rule))",
            lambda self: not self.frozen or self.learning_rate is self.weight_decay is self.rule is None,
            "a frozen group is not updated; leave out learningRate, weightDecay and rule, or frozen",
        ),
    )

    match: Pattern | None = Field(default=None, description="Pattern of paths; `halcyon show optimizer` lists them.")
    roles: Annotated[list[RoleName], Field(min_length=1, max_length=9)] | None = Field(default=None, description="Roles.")
    learning_rate: float | None = Field(default=None, gt=0, description="Factor of `optimizer.learningRate`.")
    weight_decay: float | None = Field(default=None, ge=0, description="Weight decay, whatever the roles.")
    rule: RuleName | None = Field(default=None, description="Rule with its defaults. Default: that of the run.")
    frozen: bool | None = Field(default=None, description="true: no gradient, no optimizer state, no update.")
