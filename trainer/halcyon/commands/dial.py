"""The commands ``halcyon dial`` and ``halcyon show dial``: from the depth of a nanochat to the settings of its
training.
"""

from __future__ import annotations

import json as json_format
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from halcyon.commands.nanochat_dial import Dial

Depth = Annotated[int, typer.Option(help="Transformer blocks.", min=1, max=4096)]
SequenceLength = Annotated[int, typer.Option(help="Tokens of a sequence.")]
Vocabulary = Annotated[int, typer.Option(help="Tokens of the tokenizer.")]
HeadDim = Annotated[int, typer.Option(help="Features of a head.")]
WindowPattern = Annotated[str, typer.Option(help="Attention of the blocks, repeated: S to a window, L to all.")]
TokensPerParameter = Annotated[
    float, typer.Option(help="Tokens of the training for each parameter of blocks and head.")
]
BatchTokens = Annotated[int | None, typer.Option(help="Tokens of a step. Default: by the law.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the training. Default: by the law.")]
MatrixRate = Annotated[float, typer.Option(help="Learning rate of matrices at 524,288 tokens a step.")]
EmbeddingRate = Annotated[float, typer.Option(help="That of the embedding, also at a width of 768.")]
HeadRate = Annotated[float, typer.Option(help="That of the output head, also at a width of 768.")]
ScalarRate = Annotated[float, typer.Option(help="That of the factors of blocks.")]
WeightDecay = Annotated[float, typer.Option(help="Weight decay of matrices at depth 12.")]
WarmupSteps = Annotated[int, typer.Option(help="Steps of linear warm-up.")]
Warmdown = Annotated[float, typer.Option(help="Share of the steps in which the rate falls.")]
FinalRate = Annotated[float, typer.Option(help="Last rate as a share of the peak.")]

_HEADER = """\
# Made by `halcyon dial`; `halcyon show dial` with the same options prints the law of each number.
# Replace accelerator, data, tokenizer and checkpoint.root by your own.
# Another vocabulary changes the numbers: give it to the command.
"""


def dial(
    depth: Depth,
    sequence_length: SequenceLength = 2048,
    vocabulary: Vocabulary = 32_768,
    head_dim: HeadDim = 128,
    window_pattern: WindowPattern = "SSSL",
    tokens_per_parameter: TokensPerParameter = 12.0,
    batch_tokens: BatchTokens = None,
    steps: Steps = None,
    matrix_rate: MatrixRate = 0.02,
    embedding_rate: EmbeddingRate = 0.3,
    head_rate: HeadRate = 0.008,
    scalar_rate: ScalarRate = 0.5,
    weight_decay: WeightDecay = 0.28,
    warmup_steps: WarmupSteps = 40,
    warmdown: Warmdown = 0.65,
    final_rate: FinalRate = 0.05,
) -> None:
    """Print a run document for a nanochat of this depth: all settings follow from the depth, and each can be given."""
    from halcyon.commands.nanochat_dial import document
    from halcyon_api.yaml_text import dump

    sys.stdout.write(_HEADER + dump(document(_found(locals()))))


def show_dial(
    depth: Depth,
    sequence_length: SequenceLength = 2048,
    vocabulary: Vocabulary = 32_768,
    head_dim: HeadDim = 128,
    window_pattern: WindowPattern = "SSSL",
    tokens_per_parameter: TokensPerParameter = 12.0,
    batch_tokens: BatchTokens = None,
    steps: Steps = None,
    matrix_rate: MatrixRate = 0.02,
    embedding_rate: EmbeddingRate = 0.3,
    head_rate: HeadRate = 0.008,
    scalar_rate: ScalarRate = 0.5,
    weight_decay: WeightDecay = 0.28,
    warmup_steps: WarmupSteps = 40,
    warmdown: Warmdown = 0.65,
    final_rate: FinalRate = 0.05,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what `halcyon dial` sets for a nanochat of this depth, and by which law."""
    from rich.table import Table

    from halcyon.commands.errors import console

    given = {name: value for name, value in locals().items() if name not in ("json", "Table", "console")}
    rows = _found(given).laws()
    if json:
        sys.stdout.write(f"{json_format.dumps({name: {'value': value, 'law': law} for name, value, law in rows})}\n")
        return
    table = Table("setting", "value", "law")
    for name, value, law in rows:
        table.add_row(name.replace("_", " "), _shown(value), law)
    console().print(table)


def _found(given: dict[str, Any]) -> Dial:
    """The dial; a setting that does not fit ends the command with one sentence."""
    from halcyon.commands.nanochat_dial import Choices, InvalidDial
    from halcyon.commands.nanochat_dial import dial as of_choices
    from halcyon_api.ends import ExitCode

    choices = {name: value for name, value in given.items() if name in Choices.__dataclass_fields__}
    try:
        return of_choices(Choices(**choices))
    except InvalidDial as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(ExitCode.BAD_CONFIGURATION) from None


def _shown(value: Any) -> str:
    """A value in a few words: a number with six digits, a group or a point on each line."""
    if isinstance(value, list):
        return "\n".join(_line(one) for one in value)
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _line(one: Any) -> str:
    if isinstance(one, dict):
        return (
            f"{one['match']}: {one['learningRate']:.6g}, betas {one['beta1']:g} {one['beta2']:g}, decay "
            f"{one['weightDecay']:g}"
        )
    step, momentum = one
    return f"{step:,}: {momentum:.4g}"
