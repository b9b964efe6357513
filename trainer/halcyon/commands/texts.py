"""The commands ``halcyon sample`` and ``halcyon chat``: texts that a model writes, in the terminal.

A model writes anything that was in its training data. An escape sequence can clear the screen, put words into the
clipboard, or let the terminal answer as if the user typed; marks of direction can show a text in another order. So a
terminal, which obeys control characters, gets none but tabs and line ends. A file or a pipe gets the text as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halcyon.commands import options
from halcyon.commands.errors import report_root_errors
from halcyon.commands.terminal import COMPILING_MODEL, waiting
from halcyon.host.errors import BadConfiguration
from halcyon_api.plain_files import require_file
from halcyon_api.printable import printable

if TYPE_CHECKING:
    from halcyon.inference import Piece

NEW = "/new"
"""The line that begins a new conversation."""
_SLOTS = 8
"""Prompts that are computed at once."""
_CHAT = options.ChosenText(temperature=0.7, top_k=50)


def sample(
    *,
    place: options.Place,
    prompt: list[str] | None = None,
    prompt_file: Path | None = None,
    max_tokens: options.MaxTokens = None,
    chosen: options.ChosenText,
    stop: list[str] | None = None,
    json: bool = False,
    loaded: options.Loaded,
) -> None:
    """Print texts that a model writes, as they come.

    Args:
        prompt: Text to continue; may be repeated. Default: an empty document.
        prompt_file: A file with a text to continue; - for standard input.
        stop: The text ends before this string; may be repeated.
        json: One JSON object a prompt, with tokens and log probabilities.
    """
    with report_root_errors():
        from halcyon.inference import pieces
        from halcyon.inference.generating import Collector, default_tokens, engine_for, prompt_ids, seeded
        from halcyon.serving.served import text_of

        prompts = [*(prompt or ()), *(() if prompt_file is None else (text_of(prompt_file, "--prompt-file"),))] or [""]
        common = chosen.sampling(max_tokens=max_tokens or 1, stop=tuple(stop or ()))  # before the model is read
        model, tokenizer = loaded.source(place).read()
        ids = [prompt_ids(tokenizer, text) for text in prompts]
        settings = seeded(replace(common, max_tokens=max_tokens or default_tokens(model, ids)), len(ids))
        collected, written = Collector(prompts), None
        with options.bad_options(), waiting(COMPILING_MODEL) as begun:
            engine = engine_for(
                model, tokenizer, ids, settings[0].max_tokens, slots=_SLOTS, compute_dtype=loaded.compute
            )
            for piece in pieces(engine, tokenizer, ids, settings):
                begun()
                written = written or _Written(() if json else prompts)
                done = collected.add(piece)
                if not json:
                    written.add(piece)
                elif done is not None:
                    sys.stdout.write(f"{dumps(asdict(done), ensure_ascii=False)}\n")
                    sys.stdout.flush()


def chat(
    *,
    place: options.Place,
    system: str | None = None,
    image: list[Path] | None = None,
    template: options.Template = None,
    max_tokens: options.AtLeast1 = 256,
    length: Annotated[int, typer.Option(min=2)] = 4096,
    chosen: options.ChosenText = _CHAT,
    loaded: options.Loaded,
) -> None:
    """Talk to a model that was trained on conversations.

    A line is a message; /new begins a new conversation, an end of input ends.

    Args:
        system: The system message of each conversation.
        image: A file of an image in the first message of each conversation; may be repeated.
        max_tokens: Most tokens of an answer.
        length: Most tokens of a conversation; at most the model's positions.
    """
    from halcyon.inference import Engine, pieces

    with report_root_errors():
        sampling = chosen.sampling(max_tokens=max_tokens)
        source = loaded.source(place, template=template)
        model, tokenizer = source.read()
        prompts = source.prompts(model, tokenizer)
        if prompts is None:
            raise BadConfiguration(
                f"{place}: the model has no chat template; give one with --template, or use `halcyon sample`"
            )
        engine = Engine(model, slots=1, length=length, tokens=tokenizer.vocab_size, compute_dtype=loaded.compute)
        begins: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        seen = [{"type": "image", "image": _read(path)} for path in image or ()]
        messages, compiles = list(begins), True
        for line in _lines():
            if line == NEW:
                messages = list(begins)
                continue
            content = [*seen, {"type": "text", "text": line}] if seen and messages == begins else line
            messages.append({"role": "user", "content": content})
            ids, pixels = prompts.seen(messages)
            left = engine.length - len(ids)
            if left < 1:
                raise BadConfiguration(
                    f"the conversation has {len(ids)} tokens, and the engine {engine.length}; type {NEW} earlier, or "
                    "set --length higher"
                )
            settings = replace(sampling, max_tokens=min(max_tokens, left))
            answer = ""
            with waiting(COMPILING_MODEL) if compiles else nullcontext(lambda: None) as begun:
                for piece in pieces(engine, tokenizer, [ids], [settings], ends=prompts.ends, images=[pixels]):
                    begun()
                    answer += piece.text
                    write_text(piece.text)
                    sys.stdout.flush()
            compiles = False
            sys.stdout.write("\n\n")
            messages.append({"role": "assistant", "content": answer})


def write_text(text: str) -> None:
    """Write a text of a model: printable on a terminal, and as it is elsewhere."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)


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


def _read(path: Path) -> bytes:
    require_file(path)
    return path.read_bytes()


def _lines() -> Iterator[str]:
    """The lines of standard input that are not empty."""
    shows_prompt = sys.stdin.isatty()
    while True:
        if shows_prompt:
            sys.stdout.write("> ")
            sys.stdout.flush()
        if not (line := sys.stdin.readline()):
            return
        if line := line.strip():
            yield line
