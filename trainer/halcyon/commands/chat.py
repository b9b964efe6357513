"""The command ``halcyon chat``: a conversation with a model in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halcyon.commands.errors import report_root_errors
from halcyon.commands.models import Endpoint, LoadedAs, Region
from halcyon.commands.sample import (
    Compute,
    Mesh,
    MinP,
    Place,
    Repetition,
    Seed,
    Temperature,
    TopK,
    TopP,
    bad_options,
    text_of,
)
from halcyon.commands.terminal import write_text
from halcyon.errors import BadConfiguration

if TYPE_CHECKING:
    from halcyon.inference.chat import ChatPrompts
    from halcyon.tokenizer import Tokenizer

NEW = "/new"
"""The line that begins a new conversation."""


def chat(
    place: Place,
    system: Annotated[str | None, typer.Option(help="The system message of each conversation.")] = None,
    template: Annotated[
        Path | None, typer.Option(help="A file with the chat template (Jinja). Default: that of the model.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 256,
    length: Annotated[
        int, typer.Option(min=2, help="Most tokens of a conversation; at most the model's positions.")
    ] = 4096,
    temperature: Temperature = 0.7,
    top_k: TopK = 50,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: Repetition = 1.0,
    seed: Seed = 0,
    dtype: LoadedAs = None,
    compute: Annotated[
        Compute, typer.Option(help="Type of activations, matrix products and the cache.")
    ] = Compute.FLOAT32,
    mesh: Mesh = None,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Talk to a model that was trained on conversations.

    A line is a message; /new begins a new conversation, an end of input ends.
    """
    from dataclasses import replace

    from halcyon.inference import Engine, Sampling, pieces
    from halcyon.parallel.mesh import tensor_mesh
    from halcyon.weights.loading import load

    with report_root_errors():
        with bad_options():
            sampling = Sampling(max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed)
        over = None if mesh is None else tensor_mesh(mesh)
        model, tokenizer = load(
            place, dtype=None if dtype is None else dtype.value, mesh=over, endpoint=endpoint, region=region
        )
        if tokenizer is None:
            raise BadConfiguration(f"{place}: it has no tokenizer that Halcyon reads, so text cannot become tokens")
        prompts = _prompts(place, tokenizer, template, endpoint, region)
        engine = Engine(model, slots=1, length=length, tokens=tokenizer.vocab_size, compute_dtype=compute.value)
        begins: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        messages = list(begins)
        for line in _lines():
            if line == NEW:
                messages = list(begins)
                continue
            messages.append({"role": "user", "content": line})
            ids = prompts.ids(messages)
            left = engine.length - len(ids)
            if left < 1:
                raise BadConfiguration(
                    f"the conversation has {len(ids)} tokens, and the engine {engine.length}; type {NEW} earlier, or "
                    "set --length higher"
                )
            settings = replace(sampling, max_tokens=min(max_tokens, left))
            answer = ""
            for piece in pieces(engine, tokenizer, [ids], [settings], ends=prompts.ends):
                answer += piece.text
                write_text(piece.text)
                sys.stdout.flush()
            sys.stdout.write("\n\n")
            messages.append({"role": "assistant", "content": answer})


def _prompts(
    place: str, tokenizer: Tokenizer, template: Path | None, endpoint: str | None, region: str | None
) -> ChatPrompts:
    """The prompts of the given template, the model's, or Halcyon's own."""
    from halcyon.inference.chat import ChatPrompts
    from halcyon.weights.chat_template import chat_template

    if template is not None:
        return ChatPrompts(tokenizer, text_of(template, "--template"))
    found = chat_template(place, endpoint=endpoint, region=region)
    if found is None and not ChatPrompts.has_own_marks(tokenizer):
        raise BadConfiguration(
            f"{place}: the model has no chat template; give one with --template, or use `halcyon sample`"
        )
    return ChatPrompts(tokenizer, found)


def _lines() -> Any:
    """The lines of standard input that are not empty."""
    shows_prompt = sys.stdin.isatty()
    while True:
        if shows_prompt:
            sys.stdout.write("> ")
            sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
