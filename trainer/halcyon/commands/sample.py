"""The command ``halcyon sample``: text that a model writes after some prompts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halcyon.commands.errors import report_root_errors
from halcyon.commands.models import Endpoint, LoadedAs, Region
from halcyon.commands.terminal import write_text
from halcyon.errors import BadConfiguration
from halcyon_api.plain_files import read_text

if TYPE_CHECKING:
    from halcyon.inference import Piece

Place = Annotated[
    str,
    typer.Argument(
        help="A checkpoint root, with @STEP for a step that is not the newest; or hf:FOLDER, a model in the files of "
        "Hugging Face.",
        metavar="ROOT[@STEP]",
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Most tokens of a text. Default: 128, or fewer if the model's positions end.")
]
Temperature = Annotated[
    float, typer.Option(min=0, help="The logits are divided by it. 0: always the most likely token.")
]
TopK = Annotated[int, typer.Option(min=0, help="Choose among this number of the most likely tokens. 0: among all.")]
TopP = Annotated[
    float, typer.Option(max=1, help="Choose among the most likely tokens whose probabilities reach this sum.")
]
MinP = Annotated[
    float, typer.Option(min=0, max=1, help="Leave out tokens below this part of the greatest probability.")
]
Repetition = Annotated[float, typer.Option(help="Makes tokens of the prompt and the text less likely if above 1.")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Decides the random numbers. Each later prompt has the next number.")
]

Mesh = Annotated[
    str | None,
    typer.Option(help="tensor=N: the model is divided among N devices of this process. Default: one device."),
]

_SLOTS = 8
"""Prompts that are computed at once."""
_OPTIONS = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")
"""Names of settings in the errors of the engine."""


class Compute(StrEnum):
    """Types of activations, matrix products and the cache."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def sample(
    place: Place,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Text to continue; may be repeated. Default: an empty document.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="A file with a text to continue; - for standard input.")
    ] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 1.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: Repetition = 1.0,
    seed: Seed = 0,
    stop: Annotated[list[str] | None, typer.Option(help="The text ends before this string; may be repeated.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a prompt, with tokens and log probabilities.")
    ] = False,
    dtype: LoadedAs = None,
    compute: Annotated[
        Compute, typer.Option(help="Type of activations, matrix products and the cache.")
    ] = Compute.FLOAT32,
    mesh: Mesh = None,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Print texts that a model writes, as they come."""
    with report_root_errors():
        prompts = [*(prompt or ()), *(() if prompt_file is None else (text_of(prompt_file, "--prompt-file"),))] or [""]
        from halcyon.inference.generating import Collector, default_tokens, engine_for, pieces, prompt_ids, seeded
        from halcyon.inference.sampling import Sampling
        from halcyon.weights.loading import load

        with bad_options():  # before the model is read
            common = Sampling(
                max_tokens or 1, temperature, top_k, top_p, min_p, repetition_penalty, seed, tuple(stop or ())
            )
        from halcyon.parallel.mesh import tensor_mesh

        over = None if mesh is None else tensor_mesh(mesh)
        model, tokenizer = load(
            place, dtype=None if dtype is None else dtype.value, mesh=over, endpoint=endpoint, region=region
        )
        if tokenizer is None:
            raise BadConfiguration(f"{place}: it has no tokenizer that Halcyon reads, so text cannot become tokens")
        ids = [prompt_ids(tokenizer, text) for text in prompts]
        settings = seeded(replace(common, max_tokens=max_tokens or default_tokens(model, ids)), len(ids))
        collected, written = Collector(prompts), _Written(() if json else prompts)
        with bad_options():
            engine = engine_for(
                model, tokenizer, ids, settings[0].max_tokens, slots=_SLOTS, compute_dtype=compute.value
            )
            for piece in pieces(engine, tokenizer, ids, settings):
                done = collected.add(piece)
                if not json:
                    written.add(piece)
                elif done is not None:
                    sys.stdout.write(f"{dumps(asdict(done), ensure_ascii=False)}\n")
                    sys.stdout.flush()


@contextmanager
def bad_options() -> Iterator[None]:
    """A value that the engine does not take, as one sentence about the option."""
    try:
        yield
    except ValueError as error:
        first, _, rest = str(error).partition(" ")
        option = f"--{first.replace('_', '-')}" if first in _OPTIONS else first
        raise BadConfiguration(f"{option} {rest}") from None


def text_of(path: Path, option: str) -> str:
    """The text of a file that an option names; - is standard input."""
    try:
        return sys.stdin.read() if str(path) == "-" else read_text(path)
    except UnicodeDecodeError as error:
        raise BadConfiguration(f"{option}: {path} is no text in UTF-8 at byte {error.start}") from None


class _Written:
    """Writes prompts and texts in the order of the prompts: the first text that has not ended as it comes; later ones
    wait for it.
    """

    def __init__(self, prompts: Sequence[str]) -> None:
        self._parts = [[prompt] for prompt in prompts]
        self._ended: set[int] = set()
        self._present = 0
        self._flush()

    def add(self, piece: Piece) -> None:
        """Write, or keep, a part of a text."""
        self._parts[piece.sequence].append(piece.text)
        if piece.finish is not None:
            self._ended.add(piece.sequence)
        self._flush()

    def _flush(self) -> None:
        while self._present < len(self._parts):
            write_text("".join(self._parts[self._present]))
            self._parts[self._present].clear()
            if self._present not in self._ended:
                break
            self._present += 1
            sys.stdout.write("\n" if self._present == len(self._parts) else "\n\n")
        sys.stdout.flush()
