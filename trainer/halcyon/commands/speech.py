"""The command ``halcyon transcribe``: what is said in files of sound."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from halcyon.commands import options
from halcyon.commands.errors import report_root_errors
from halcyon.host.errors import BadConfiguration
from halcyon_api.printable import printable


def transcribe(
    *,
    files: list[Path],
    checkpoint: Annotated[str, typer.Option()],
    language: str | None = None,
    task: Literal["transcribe", "translate"] = "transcribe",
    max_tokens: options.MaxTokens = None,
    as_json: options.Json = False,
    loaded: options.Loaded,
) -> None:
    """Print what is said in files of sound, always with the most likely token. Longer sounds are cut into the time that
    the model hears at once.

    Args:
        files (FILE...): Files of sound: wav, flac, ogg or mp3.
        checkpoint (ROOT[@STEP]): The checkpoint root of a run of the family whisper, or hf:FOLDER, a Whisper in the
            files of Hugging Face.
        language: Language, as en. Default: a text begins with what the tokenizer puts before it.
        task: With --language: the words said, or their translation.
        as_json: One JSON object a file: file, text, seconds.
    """
    with report_root_errors():
        from halcyon.data.formats.speech import prompt_of
        from halcyon.data.sound import RATE, BadSound, decoded
        from halcyon.inference.speech import LONGEST_SECONDS, written_texts

        source: Any = loaded.source(checkpoint)
        model, tokenizer = source.read()
        prompt = prompt_of(tokenizer, language, task, "--language")
        for file in files:
            try:
                samples = decoded(file.read_bytes(), LONGEST_SECONDS)
            except OSError as error:
                raise BadConfiguration(f"{file} cannot be read: {error.strerror}; name another file") from None
            except BadSound as bad:
                raise BadConfiguration(f"{file} {bad}; {bad.fix}") from None
            heard = written_texts(
                model, tokenizer, [samples], prompt, max_tokens=max_tokens, compute_dtype=loaded.compute
            )
            text = next(heard)
            if as_json:
                document = {"file": str(file), "text": text, "seconds": len(samples) / RATE}
                sys.stdout.write(f"{json.dumps(document, ensure_ascii=False)}\n")
            else:
                shown = printable(text) if sys.stdout.isatty() else text
                sys.stdout.write(f"{file}: {shown}\n" if len(files) > 1 else f"{shown}\n")
            sys.stdout.flush()
