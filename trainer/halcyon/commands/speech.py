"""The command ``halcyon transcribe``: what is said in files of sound."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

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
        from halcyon.inference.speech import Transcriber, written_texts

        model, tokenizer = loaded.source(checkpoint).read()
        sounds = ((str(file), _content(file)) for file in files)
        transcriber = Transcriber.of(model, tokenizer, loaded.compute)
        heard = written_texts(transcriber, sounds, language, task=task, max_tokens=max_tokens)
        for file, (text, seconds) in zip(files, heard, strict=True):
            if as_json:
                document = {"file": str(file), "text": text, "seconds": seconds}
                sys.stdout.write(f"{json.dumps(document, ensure_ascii=False)}\n")
            else:
                shown = printable(text) if sys.stdout.isatty() else text
                sys.stdout.write(f"{file}: {shown}\n" if len(files) > 1 else f"{shown}\n")
            sys.stdout.flush()


def _content(file: Path) -> bytes:
    from halcyon.inference.speech import read_sound

    try:
        return read_sound(file)
    except OSError as error:
        raise BadConfiguration(f"{file} cannot be read: {error.strerror}; name another file") from None
