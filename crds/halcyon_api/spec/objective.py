"""``spec.objective``: what the training minimizes. Each kind has its own metrics, and may have its own form of
batch.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from halcyon_api.base import ApiModel, OneOf, Ratio, optional
from halcyon_api.spec.model import Model
from halcyon_api.spec.tokenizer import Uri

Coefficient = Annotated[float, Field(ge=0, le=1000)]
MULTI_TOKEN_WEIGHT = 0.3
MULTI_TOKEN_DESCRIPTION = f"Weight of the mean loss of `numNextnPredictLayers`. Default: {MULTI_TOKEN_WEIGHT}."


class NextTokenSpec(ApiModel):
    """Cross entropy of the next token, in nats, over all tokens with a loss weight."""

    z_loss: Coefficient = 0.0
    """Weight of the squared logarithm of the softmax's denominator (Chowdhery et al. 2022)."""
    multi_token_weight: Coefficient | None = optional(MULTI_TOKEN_DESCRIPTION)


class MaskedTokenSpec(ApiModel):
    """Cross entropy of hidden tokens, in nats: 80 % become the mask token, 10 % a random one, 10 % stay (Devlin et al.
    2019).
    """

    share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the tokens that are hidden."""


class ClassifySpec(ApiModel):
    """Cross entropy of the label of a text, in nats, by `model.labels`. A row holds one text."""


class ContrastiveSpec(ApiModel):
    """Cross entropy of the text of a query among all texts of the batch, by the cosine of their vectors (van den Oord
    et al. 2018). A row holds a query and its texts.
    """

    temperature: float = Field(default=0.05, gt=0, le=100)
    """What cosines are divided by."""
    pooling: Literal["mean", "last", "cls"] = "mean"
    """Makes a vector of the features: their mean, or those of the last or first token."""


class FinetuneSpec(ApiModel):
    """Cross entropy of the assistant's tokens, in nats. Rows hold whole conversations, packed by best fit and
    padded.
    """

    weighting: Literal["token", "conversation"] = "token"
    """What has the same weight in the loss."""
    buffer: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Number of conversations to choose the best fit from."""
    multi_token_weight: Coefficient | None = optional(MULTI_TOKEN_DESCRIPTION)


class DpoSpec(ApiModel):
    """Direct preference optimization (Rafailov et al. 2023, equation 7)."""

    beta: float = Field(default=0.1, gt=0, le=1000)
    """Weight of the distance to the reference."""
    label_smoothing: float = Field(default=0.0, ge=0, le=0.49)
    """Share of pairs whose order is assumed to be wrong."""


class IpoSpec(ApiModel):
    """Identity preference optimization (Azar et al. 2023, equation 17)."""

    beta: float = Field(default=0.1, gt=0, le=1000)
    """Weight of the distance to the reference (the paper's tau)."""
    per_token: bool = False
    """Use the mean of an answer's log-probabilities instead of their sum."""


class SimpoSpec(ApiModel):
    """Simple preference optimization (Meng et al. 2024, equation 6). It has no reference."""

    beta: float = Field(default=2.0, gt=0, le=1000)
    """Factor of the mean log-probability of an answer."""
    gamma: Coefficient = 1.0
    """Margin between the answers."""


class OrpoSpec(ApiModel):
    """Odds ratio preference optimization (Hong et al. 2024, equation 6). It has no reference."""

    weight: Coefficient = 0.1
    """Weight of the odds ratio (the paper's lambda)."""


class RewardSpec(ApiModel):
    """A reward model (Bradley and Terry 1952): the preferred answer gets the greater score, that of the one of
    `model.labels`.
    """

    center: Coefficient = 0.0
    """Weight of the squared sum of both scores (Eisenstein et al. 2023)."""


class PreferenceSpec(OneOf):
    """A loss over pairs of a preferred and a rejected conversation: exactly one kind."""

    dpo: DpoSpec | None = None
    """DPO."""
    ipo: IpoSpec | None = None
    """IPO."""
    simpo: SimpoSpec | None = None
    """SimPO."""
    orpo: OrpoSpec | None = None
    """ORPO."""
    reward: RewardSpec | None = None
    """A reward model."""
    pairs_per_row: Annotated[int, Field(ge=1, le=64)] = 1
    """Maximum number of pairs in a row of the batch."""

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares with a reference model: the weights that the run begins with."""
        return self.dpo is not None or self.ipo is not None


Advantage = Literal["standardized", "centred"]
Deviation = Literal["population", "sample"]
Correction = Literal["clip", "token", "sequence"]
TRUNCATION = 2.0

REWARD_PATTERN = r"^(gsm8k|spellingBee|judge|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$"


class EnvironmentSpec(ApiModel):
    """A function in a process of its own that talks with the model and returns the reward."""

    arguments: dict[str, Any] = Field(
        default={}, max_length=64, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """Given to the function. Any members."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Longest time between two words of the function."""
    on_failure: Literal["leaveOut", "zero", "end"] = "leaveOut"
    """A failed conversation has no weight, or the reward 0, or ends the run."""


class PolicySpec(ApiModel):
    """Group relative policy optimization (Shao et al. 2024): sampled answers with rewards. A row of the batch is an
    answer.
    """

    reward: Annotated[str, StringConstraints(max_length=253, pattern=REWARD_PATTERN)]
    """`gsm8k`, `spellingBee`, or a function, as `package.module:function`; with `environment` `judge` or a function."""
    environment: EnvironmentSpec | None = optional("`reward` talks with the model. Default: it sees the answers.")
    group_size: Annotated[int, Field(ge=2, le=1024)] = 8
    """Answers to each prompt."""
    max_tokens: Annotated[int, Field(ge=1, le=1_048_576)] = 256
    """Maximum tokens of an answer."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Of sampling and loss."""
    advantage: Advantage = "standardized"
    """Reward minus the mean of its group; `standardized`: divided by the deviation."""
    deviation: Deviation = "population"
    """Of n rewards, with the divisor n (`population`) or n - 1 (`sample`); Shao et al. (2024, 4.1.2) name none."""
    deviation_epsilon: Coefficient = 1e-6
    """Added to the deviation."""
    normalization: Literal["token", "sequence", "constant"] = "token"
    """Mean over tokens (DAPO), over answers (GRPO), or sum / `maxTokens` (Dr. GRPO)."""
    ratio: Literal["token", "sequence"] = "token"
    """Of each token, or of the answer (GSPO)."""
    clip_low: Ratio = 0.2
    """The ratio is clipped at 1 - clipLow."""
    clip_high: Coefficient = 0.2
    """The ratio is clipped at 1 + clipHigh."""
    beta: Coefficient = 0.0
    """Weight of the KL to the first weights."""
    updates_per_rollout: Annotated[int, Field(ge=1, le=64)] = 1
    """Steps with the same sampling weights."""
    delay_steps: int | None = optional(
        "Step s trains on answers that the weights of step s - delaySteps sampled. Default: 0.", ge=0, le=64
    )
    sampled_by: Literal["run", "samplers"] | None = optional(
        "`samplers`: runs of task `sample` with this document and root sample the answers. Default: the run."
    )
    correction: Correction | None = optional(
        "Of answers of other weights: `clip` the ratio (default), or weigh each `token` or `sequence` by its ratio, at "
        "most `truncation` (IMPALA, TIS)."
    )
    truncation: float | None = optional(f"Default: {TRUNCATION:g}.", gt=0, le=1000)
    sharded: bool | None = optional(
        "While answers are sampled, no device holds all weights: they stay divided as in training. Default: false."
    )
    exact: bool | None = optional(
        "The trainer's forward pass draws each token again, so answers are exactly its own. Default: with `compute` "
        "float32."
    )
    mismatch_limit: Coefficient | None = optional(
        "Nats by which the log-probability of a sampled token may differ from that of the trainer. Default: no limit."
    )

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares with a reference model: the weights that the run begins with."""
        return self.beta > 0

    @property
    def has_sampler(self) -> bool:
        """Whether the state keeps weights that sample, which differ in some steps from those that are trained."""
        return self.updates_per_rollout > 1

    @property
    def has_pool(self) -> bool:
        """Whether samplers sample the answers."""
        return self.sampled_by == "samplers"

    @property
    def truncates(self) -> bool:
        """Whether the ratio is a weight without a gradient."""
        return self.correction in ("token", "sequence")

    @property
    def has_sampled_log_probs(self) -> bool:
        """Whether the loss reads the log-probabilities of the weights that sampled."""
        return self.has_sampler or bool(self.delay_steps) or self.truncates


class TeacherSpec(ApiModel):
    """Another model whose distribution of each token is learned (Hinton et al. 2015), in the training or at sampled
    answers (Agarwal et al. 2024). State and checkpoints hold it.
    """

    path: Uri
    """Folder with `config.json` and weights, as in `from.huggingFace`; for the tokenizer of the run."""
    model: Annotated[
        Model, WithJsonSchema({"type": "object", "maxProperties": 128, "x-kubernetes-preserve-unknown-fields": True})
    ]
    """Its architecture, as `spec.model`."""
    beta: Ratio = 0.0
    """0: forward KL divergence; 1: reverse; between: generalized Jensen-Shannon divergence."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Of both distributions."""
    top_k: Annotated[int, Field(ge=1, le=65_536)] | None = optional(
        "Its most likely tokens, compared one by one; the others count as one. Default: all."
    )
    weight: Ratio = 1.0
    """Share of the divergence in what is minimized."""


class ObjectiveSpec(OneOf):
    """The objective: exactly one member, and perhaps, with `nextToken`, `finetune` or `policy`, a teacher."""

    next_token: NextTokenSpec | None = None
    """Cross entropy of the next token."""
    masked_token: MaskedTokenSpec | None = None
    """Cross entropy of hidden tokens, for encoders."""
    classify: ClassifySpec | None = None
    """Cross entropy of labels of texts."""
    contrastive: ContrastiveSpec | None = None
    """Vectors of texts."""
    finetune: FinetuneSpec | None = None
    """Cross entropy of the assistant's tokens."""
    preference: PreferenceSpec | None = None
    """A loss over pairs."""
    policy: PolicySpec | None = None
    """Rewards of sampled answers."""
    teacher: TeacherSpec | None = None
    """A model to learn from."""

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """See `OneOf.kinds`."""
        return tuple(name for name in super().kinds() if name != "teacher")


def next_token() -> ObjectiveSpec:
    """The objective of a run whose document has none."""
    return ObjectiveSpec(next_token=NextTokenSpec())
