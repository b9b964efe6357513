"""``spec.optimizer``: the update rule, the settings that all rules share, clipping, and groups of parameters.

A new rule is a class in `halcyon_api.spec.rules`, which says what else the programs know of it, and a member here.
"""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, NonNegativeFloat, PositiveFloat, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from halcyon_api.base import ApiModel, OneOf, Rule, RuledModel, optional
from halcyon_api.spec import rules as update_rules
from halcyon_api.spec.schedule import OtherSchedulesSpec, ScheduleSpec, cosine

RuleName = Literal[
    "adamw", "lion", "muon", "normuon", "muonH", "soap", "soapMuon", "kron", "scion", "muonAdamw",
    "adafactor", "adopt", "mars", "adamMini", "adamH", "sophia",
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
            "a group needs match or roles; give a pattern such as '*.attention.*', or roles such as [embedding]",
        ),
        Rule(
            f"!has(self.frozen) || !self.frozen || !({' || '.join(f'has(self.{name})' for name in _OF_UPDATES)})",
            "a frozen group is not updated; leave out its other settings, or frozen",
        ),
    )

    match: Pattern | None = None
    """Pattern of paths; `halcyon show optimizer` lists them."""
    roles: list[RoleName] | None = optional(min_length=1, max_length=9)
    """Roles."""
    learning_rate: PositiveFloat | None = None
    """Factor of `optimizer.learningRate`."""
    weight_decay: NonNegativeFloat | None = None
    """Weight decay, whatever the roles."""
    rule: RuleName | None = None
    """Rule with its defaults. Default: that of the run."""
    beta1: update_rules.Decay | None = None
    """`beta1` of the rule."""
    beta2: update_rules.Decay | None = None
    """`beta2` of the rule."""
    epsilon: PositiveFloat | None = None
    """`epsilon` of the rule."""
    frozen: bool | None = None
    """true: no gradient, no optimizer state, no update."""

    @property
    def own_settings(self) -> dict[str, float]:
        """The settings of its rule that the group has."""
        return {name: value for name in OWN_SETTINGS if (value := getattr(self, name)) is not None}


class ClipSpec(ApiModel):
    """Clipping of gradients before that of the global norm."""

    value: PositiveFloat | None = None
    """Largest absolute value of an element."""
    adaptive: PositiveFloat | None = None
    """Largest norm for an output of a matrix, as a share of that of its weights (Brock et al. 2021)."""


FOR_MATRICES = ("muon", "normuon", "muonH", "soap", "soapMuon", "kron", "scion")
"""The rules for hidden matrices. They share the settings of `OptimizerSpec.matrices`."""

MOMENTUM: dict[str, str] = {"adamw": "beta1", "muonAdamw": "momentum"}
"""The rules with a momentum that a schedule can set, each with its member for a constant momentum."""


class InvalidGroup(ValueError):
    """A group has a setting that its rule does not take. The message is one sentence."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{message}; leave {field} out, or choose another rule")
        self.field = field


class OptimizerSpec(OneOf, RuledModel):
    """Learning rate, schedule, weight decay, clipping, and the update rule: exactly one member."""

    learning_rate: PositiveFloat = 3e-4
    """Peak learning rate."""
    schedule: ScheduleSpec = Field(default_factory=cosine)
    """Learning rate schedule: exactly one member. Default: `cosine`."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices; norms, biases and embeddings do not decay."""
    max_gradient_norm: NonNegativeFloat = 1.0
    """Global gradient norm to clip to; 0: do not clip."""
    clip: ClipSpec | None = None
    """Clipping besides that of the norm."""
    other_schedules: OtherSchedulesSpec | None = None
    """Schedules besides that of the learning rate."""
    adamw: update_rules.AdamWSpec | None = None
    """AdamW."""
    lion: update_rules.LionSpec | None = None
    """Lion."""
    muon: update_rules.MuonSpec | None = None
    """Muon."""
    normuon: update_rules.NorMuonSpec | None = None
    """NorMuon."""
    muon_h: update_rules.MuonHSpec | None = None
    """MuonH."""
    soap: update_rules.SoapSpec | None = None
    """SOAP."""
    soap_muon: update_rules.SoapMuonSpec | None = None
    """SOAP-Muon."""
    kron: update_rules.KronSpec | None = None
    """PSGD-Kron."""
    scion: update_rules.ScionSpec | None = None
    """Scion."""
    muon_adamw: update_rules.MuonAdamWSpec | None = None
    """Muon of nanochat."""
    adafactor: update_rules.AdafactorSpec | None = None
    """Adafactor."""
    adopt: update_rules.AdoptSpec | None = None
    """ADOPT."""
    mars: update_rules.MarsSpec | None = None
    """MARS."""
    adam_mini: update_rules.AdamMiniSpec | None = None
    """Adam-mini."""
    adam_h: update_rules.AdamHSpec | None = None
    """AdamH."""
    sophia: update_rules.SophiaSpec | None = None
    """Sophia."""
    matrices: update_rules.MatricesSpec | None = None
    """What the rules for hidden matrices share."""
    groups: list[GroupSpec] | None = optional(max_length=32)
    """Parameters with settings of their own; none may be in two groups."""

    rules: ClassVar = (
        Rule(
            f"!has(self.matrices) || has(self.groups) || {' || '.join(f'has(self.{name})' for name in FOR_MATRICES)}",
            "matrices is for rules for hidden matrices, such as muon; delete it",
            field_path=".matrices",
        ),
    )

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The update rules; other optional members are common to all."""
        return tuple(name for name in super().kinds() if name not in ("matrices", "other_schedules", "groups", "clip"))

    @property
    def rule_names(self) -> tuple[str, ...]:
        """The rule of the run, and then those of groups that have another one."""
        return tuple(dict.fromkeys((self.kind, *(group.rule for group in self.groups or () if group.rule is not None))))

    def settings_of(self, group: GroupSpec) -> ApiModel:
        """The settings of the rule of a group: those of the run if the group has the run's rule, else the defaults;
        then the group's own.

        Raises:
            InvalidGroup: The rule does not have one of the group's own settings, or not with this value.
        """
        rule = group.rule or self.kind
        settings = self.value if rule == self.kind else OptimizerSpec.model_validate({rule: {}}).value
        for name, value in group.own_settings.items():
            try:
                settings = type(settings).model_validate(settings.document() | {name: value})
            except ValidationError:
                known = name in type(settings).model_fields
                raise InvalidGroup(name, f"{rule} takes no {name}" + (f" of {value:g}" if known else "")) from None
        return settings

    @classmethod
    def rule_classes(cls) -> dict[str, type[update_rules.UpdateRule]]:
        """The settings of each update rule, by its name in documents."""
        return {to_camel(kind): get_args(cls.model_fields[kind].annotation)[0] for kind in cls.kinds()}

    @property
    def used_rules(self) -> tuple[type[update_rules.UpdateRule], ...]:
        """The settings of `rule_names`."""
        classes = self.rule_classes()
        return tuple(classes[name] for name in self.rule_names)

    @property
    def least_moments(self) -> int:
        """Least number of values that the state has for each parameter."""
        if any(group.frozen for group in self.groups or ()):
            return 0
        return min(rule.moments if rule.least_moments is None else rule.least_moments for rule in self.used_rules)

    @property
    def usual_moments(self) -> int:
        """Number of values that the state has for each parameter, for estimates of memory: at least 2, as AdamW has."""
        return max(2, *(rule.moments for rule in self.used_rules))
