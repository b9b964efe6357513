"""The depth dial of nanochat: from the depth of a model to all settings of its training, by stated laws; and the
commands ``halcyon dial`` and ``halcyon show dial``.

The laws are those of nanochat (Karpathy 2025, `github.com/karpathy/nanochat <https://github.com/karpathy/nanochat>`_,
as of July 2026). The model with 12 blocks is the reference: its batch, rates and decay were found by experiments, and
the laws transfer them to other depths. `document` writes every result into a run document, so a later version of
Halcyon with other laws changes no run.
"""

import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from halcyon.commands.errors import console
from halcyon.commands.options import Json, print_json
from halcyon.commands.views.tables import FittedTable
from halcyon_api.ends import ExitCode
from halcyon_api.spec.families.nanochat import NanochatSpec, derived_width
from halcyon_api.spec.tokenizer import VOCABULARY_MULTIPLE
from halcyon_api.yaml_text import dump

REFERENCE_DEPTH = 12
REFERENCE_BATCH = 2**19
"""Tokens of the best batch of the reference model."""
REFERENCE_WIDTH = 768
"""Width of the reference model, at which the rates of AdamW were settings."""
BATCH_EXPONENT = 0.383
"""Of the best batch size by the tokens of the training (Bergsma et al. 2025, `arXiv 2505.13738
<https://arxiv.org/abs/2505.13738>`_).
"""
SMEAR_RATE = 0.2
_RESIDUAL_SHARE, _VALUES_SHARE = 0.01, 0.5
MOMENTUM_START, MOMENTUM, MOMENTUM_END = 0.85, 0.97, 0.90
MOMENTUM_WARMUP = 400
EPSILON = 1e-10
"""Of AdamW."""


class InvalidDial(ValueError):
    """The settings contradict each other. The message is one sentence that names the setting and the fix."""


@dataclass(frozen=True)
class Choices:
    """What the laws start from; every field may be given, as an option of the commands.

    Args:
        depth: Transformer blocks.
        sequence_length: Tokens of a sequence.
        vocabulary: Tokens of the tokenizer.
        head_dim: Features of a head.
        window_pattern: Attention of the blocks, repeated: S to a window, L to all.
        tokens_per_parameter: Tokens of the training for each parameter of blocks and head.
        batch_tokens: Tokens of a step. Default: by the law.
        steps: Steps of the training. Default: by the law.
        matrix_rate: Learning rate of matrices at 524,288 tokens a step.
        embedding_rate: That of the embedding, also at a width of 768.
        head_rate: That of the output head, also at a width of 768.
        scalar_rate: That of the factors of blocks.
        weight_decay: Weight decay of matrices at depth 12.
        warmup_steps: Steps of linear warm-up.
        warmdown: Share of the steps in which the rate falls.
        final_rate: Last rate as a share of the peak.
    """

    depth: Annotated[int, typer.Option(min=1, max=4096)]
    sequence_length: int = 2048
    vocabulary: int = 32_768
    head_dim: int = 128
    window_pattern: str = "SSSL"
    tokens_per_parameter: float = 12.0
    batch_tokens: int | None = None
    steps: int | None = None
    matrix_rate: float = 0.02
    embedding_rate: float = 0.3
    head_rate: float = 0.008
    scalar_rate: float = 0.5
    weight_decay: float = 0.28
    warmup_steps: int = 40
    warmdown: float = 0.65
    final_rate: float = 0.05


LAWS = {
    "width": "64 * depth, rounded up to whole heads",
    "heads": "width / headDim",
    "window": "sequence length / 4, rounded up to 128, and the position itself",
    "parameters": "counted",
    "scaling_parameters": "parameters of the blocks and of the head",
    "tokens": "tokens per parameter * scaling parameters",
    "batch_tokens": "2^19 * (tokens / tokens at depth 12)^0.383, to the nearest power of 2",
    "batch_size": "batch tokens / sequence length",
    "steps": "tokens / batch tokens, rounded down",
    "rate_factor": "sqrt(batch tokens / 2^19)",
    "learning_rate": "matrix rate * rate factor",
    "weight_decay": "weight decay * sqrt(batch tokens / 2^19) * tokens at depth 12 / tokens; a cosine to 0",
    "warmup_steps": "as given",
    "warmdown_steps": "warmdown * steps",
    "groups": "AdamW: embedding and head rates * rate factor * sqrt(768 / width), as factors of the matrix rate",
    "momentum": "0.85 to 0.97 in 400 steps, to 0.90 in the warmdown: (step, momentum)",
}
"""How each result of a dial is made."""


@dataclass(frozen=True)
class Dial:
    """What the laws give; `LAWS` has the law of each field after the first two."""

    choices: Choices
    model: NanochatSpec
    width: int
    heads: int
    window: int | None
    parameters: int
    scaling_parameters: int
    tokens: int
    batch_tokens: int
    batch_size: int
    steps: int
    rate_factor: float
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    warmdown_steps: int
    groups: list[dict[str, Any]]
    momentum: list[tuple[int, float]]

    def laws(self) -> list[tuple[str, Any, str]]:
        """Each result with its name and its law; a given value has the law "given"."""
        given = {"batch_tokens": self.choices.batch_tokens, "steps": self.choices.steps}
        return [
            (name, getattr(self, name), "given" if given.get(name) is not None else law) for name, law in LAWS.items()
        ]


def dial(choices: Choices) -> Dial:
    """The settings of a training by the laws.

    Raises:
        InvalidDial: A setting does not fit the others.
    """
    _check(choices)
    window = -(-choices.sequence_length // 4 // 128) * 128 + 1
    windowed = "S" in choices.window_pattern and window <= choices.sequence_length and choices.depth > 1
    model = NanochatSpec(
        depth=choices.depth,
        hidden_size=derived_width(choices.depth, choices.head_dim),
        head_dim=choices.head_dim,
        window_pattern=choices.window_pattern if windowed else "L",
        sliding_window=window if windowed else None,
    )
    vocabulary = -(-choices.vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    scaling = model.scaling_parameters(vocabulary)
    tokens = int(choices.tokens_per_parameter * scaling)
    reference = NanochatSpec(depth=REFERENCE_DEPTH, head_dim=choices.head_dim)
    reference_tokens = choices.tokens_per_parameter * reference.scaling_parameters(vocabulary)
    best = REFERENCE_BATCH * (tokens / reference_tokens) ** BATCH_EXPONENT
    batch_tokens = choices.batch_tokens or 2 ** round(math.log2(best))
    if batch_tokens % choices.sequence_length:
        raise InvalidDial(
            f"a batch of {batch_tokens} tokens has no whole number of sequences of {choices.sequence_length}; give "
            "another batch or length"
        )
    steps = choices.steps or tokens // batch_tokens
    if steps < 2:
        raise InvalidDial(
            f"{tokens} tokens are {steps} steps of {batch_tokens} tokens; give more tokens for a parameter, or a "
            "smaller batch"
        )
    warmup = min(choices.warmup_steps, steps - 1)
    warmdown = max(1, min(round(choices.warmdown * steps), steps - warmup))
    factor = math.sqrt(batch_tokens / REFERENCE_BATCH)
    rate = choices.matrix_rate * factor
    return Dial(
        choices=choices,
        model=model,
        width=model.width,
        heads=model.heads,
        window=model.sliding_window,
        parameters=model.shape(vocabulary, choices.sequence_length).parameters,
        scaling_parameters=scaling,
        tokens=tokens,
        batch_tokens=batch_tokens,
        batch_size=batch_tokens // choices.sequence_length,
        steps=steps,
        rate_factor=factor,
        learning_rate=rate,
        weight_decay=choices.weight_decay * factor * (reference_tokens / tokens),
        warmup_steps=warmup,
        warmdown_steps=warmdown,
        groups=adamw_groups(
            model.width,
            rate,
            embedding=choices.embedding_rate * factor,
            head=choices.head_rate * factor,
            scalar=choices.scalar_rate * factor,
        ),
        momentum=momentum_points(steps, warmdown),
    )


def _check(choices: Choices) -> None:
    if choices.depth < 1 or choices.head_dim < 2 or choices.head_dim % 2:
        raise InvalidDial("the depth must be at least 1, and the features of a head an even number")
    if min(choices.sequence_length, choices.vocabulary) < 2 or choices.tokens_per_parameter <= 0:
        raise InvalidDial(
            "sequence length and vocabulary must be at least 2, and the tokens for a parameter more than 0"
        )
    if not choices.window_pattern or set(choices.window_pattern) - {"S", "L"}:
        raise InvalidDial(f"the window pattern {choices.window_pattern} has other letters than S and L")
    rates = (choices.matrix_rate, choices.embedding_rate, choices.head_rate, choices.scalar_rate)
    if (
        min(rates) <= 0
        or choices.weight_decay < 0
        or not 0 <= choices.warmdown <= 1
        or not 0 <= choices.final_rate <= 1
    ):
        raise InvalidDial(
            "rates must be more than 0, the weight decay at least 0, and warmdown and last rate between 0 and 1"
        )
    if choices.warmup_steps < 0 or any(
        given is not None and given < 1 for given in (choices.batch_tokens, choices.steps)
    ):
        raise InvalidDial("batch, steps and warm-up must not be negative, and batch and steps at least 1")


def adamw_groups(width: int, rate: float, *, embedding: float, head: float, scalar: float) -> list[dict[str, Any]]:
    """The groups of ``spec.optimizer`` with AdamW: their rates as factors of the rate of matrices.

    Rates of embeddings and head fall with the square root of the width; they were found at a width of 768.

    Args:
        width: Features of the residual stream.
        rate: Learning rate of matrices.
        embedding: Rate of the token embedding at a width of 768.
        head: Rate of the output head at a width of 768.
        scalar: Rate of the factors of the first embedding in the blocks.
    """
    by_width = math.sqrt(REFERENCE_WIDTH / width)

    def group(match: str, own: float, beta1: float, beta2: float, weight_decay: float) -> dict[str, Any]:
        rates = {"learningRate": own / rate, "weightDecay": weight_decay}
        return {"match": match, "rule": "adamw", **rates, "beta1": beta1, "beta2": beta2, "epsilon": EPSILON}

    return [
        group("untied_head.*", head * by_width, 0.8, 0.96, 0.01),
        group("embedding.*", embedding * by_width, 0.8, 0.995, 0.001),
        group("*.values.table.*", embedding * by_width * _VALUES_SHARE, 0.8, 0.995, 0.01),
        group("*.residual_factor", scalar * _RESIDUAL_SHARE, 0.8, 0.95, 0.05),
        group("*.embedding_factor", scalar, 0.96, 0.95, 0.0),
        group("smear.*", SMEAR_RATE, 0.8, 0.95, 0.0),
        group("backout", SMEAR_RATE, 0.8, 0.95, 0.0),
    ]


def momentum_points(steps: int, warmdown: int) -> list[tuple[int, float]]:
    """The momentum of matrices at steps between which it is linear.

    It rises over the first 400 steps and falls in the warmdown. A warmdown that begins earlier shows only after the
    rise.
    """
    start, rise = steps - warmdown, MOMENTUM - MOMENTUM_START
    if steps <= MOMENTUM_WARMUP:
        return [(0, MOMENTUM_START), (steps, MOMENTUM_START + rise * steps / MOMENTUM_WARMUP)]
    if start >= MOMENTUM_WARMUP:
        stable = [(start, MOMENTUM)] if start > MOMENTUM_WARMUP else []
        return [(0, MOMENTUM_START), (MOMENTUM_WARMUP, MOMENTUM), *stable, (steps, MOMENTUM_END)]
    last = MOMENTUM_WARMUP - 1
    fallen = MOMENTUM - (MOMENTUM - MOMENTUM_END) * (MOMENTUM_WARMUP - start) / warmdown
    risen = MOMENTUM_START + rise * last / MOMENTUM_WARMUP
    return [(0, MOMENTUM_START), (last, risen), (MOMENTUM_WARMUP, fallen), (steps, MOMENTUM_END)]


def document(settings: Dial) -> dict[str, Any]:
    """A run document with every setting of the dial.

    Numbers have six digits. Data, accelerator and root are to be replaced.
    """
    name, choices = f"nanochat-d{settings.choices.depth}", settings.choices
    points = [{"at": step, "momentum": _digits(value)} for step, value in settings.momentum]
    groups = [
        {key: _digits(value) if isinstance(value, float) else value for key, value in group.items()}
        for group in settings.groups
    ]
    return {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": name},
        "spec": {
            "accelerator": {"type": "cpu"},
            "model": settings.model.document(),
            "tokenizer": {"bpe": {"vocabSize": choices.vocabulary}},
            "data": {"sources": [{"name": "python", "stdlib": {}}]},
            "optimizer": {
                "learningRate": _digits(settings.learning_rate),
                "weightDecay": _digits(settings.weight_decay),
                "maxGradientNorm": 0,
                "schedule": {
                    "wsd": {
                        "warmupSteps": settings.warmup_steps,
                        "decaySteps": settings.warmdown_steps,
                        "minRatio": choices.final_rate,
                    }
                },
                "otherSchedules": {"points": points, "weightDecayShape": "cosine"},
                "muonAdamw": {"iterationType": "bfloat16"},
                "groups": groups,
            },
            "trainer": {
                "steps": settings.steps,
                "batchSize": settings.batch_size,
                "sequenceLength": choices.sequence_length,
                "precision": {"compute": "bfloat16"},
                "unroll": "auto",
            },
            "checkpoint": {"root": f"~/halcyon/{name}"},
        },
    }


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


_HEADER = """\
# Made by `halcyon dial`; `halcyon show dial` with the same options prints the law of each number.
# Replace accelerator, data, tokenizer and checkpoint.root by your own.
# Another vocabulary changes the numbers: give it to the command.
"""


def _settings(choices: Choices) -> Dial:
    """The dial; a setting that does not fit ends the command with one sentence."""
    try:
        return dial(choices)
    except InvalidDial as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(ExitCode.BAD_CONFIGURATION) from None


def print_dial(choices: Choices) -> None:
    """Print a run document for a nanochat of this depth: all settings follow from the depth, and each can be given."""
    sys.stdout.write(_HEADER + dump(document(_settings(choices))))


def show_dial(choices: Choices, json: Json = False) -> None:
    """Show what `halcyon dial` sets for a nanochat of this depth, and by which law."""
    rows = _settings(choices).laws()
    if json:
        print_json({name: {"value": value, "law": law} for name, value, law in rows})
        return
    table = FittedTable("setting", "value", "law")
    for name, value, law in rows:
        table.add_row(name.replace("_", " "), _shown(value), law)
    console().print(table)


def _shown(value: Any) -> str:
    """A value in a few words: a number with six digits, a group or a point on each line."""
    if isinstance(value, list):
        return "\n".join(map(_line, value))
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _line(entry: Any) -> str:
    if isinstance(entry, dict):
        return (
            f"{entry['match']}: {entry['learningRate']:.6g}, betas {entry['beta1']:g} {entry['beta2']:g}, decay "
            f"{entry['weightDecay']:g}"
        )
    step, momentum = entry
    return f"{step:,}: {momentum:.4g}"
