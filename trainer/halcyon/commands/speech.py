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

_LONGEST_SECONDS = 4 * 3600


def transcribe(
    *,
    files: list[Path],
    checkpoint: Annotated[str, typer.Option()],
    language: str | None = None,
    task: Literal["transcribe", "translate"] = "transcribe",
    max_tokens: options.MaxTokens = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
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
        from halcyon.data.sound import HOP, RATE, BadSound, decoded, log_mel
        from halcyon.inference.speech import heard_tokens

        source: Any = loaded.source(checkpoint)
        model, tokenizer = source.read()
        if model.sound is None:
            raise BadConfiguration(f"{checkpoint}: it has no model of the family whisper; use `halcyon sample`")
        prompt = prompt_of(tokenizer, language, task, "--language")
        (frames, bands), room = model.sound, model.max_position.size - len(prompt)
        for file in files:
            try:
                samples = decoded(file.read_bytes(), _LONGEST_SECONDS)
            except OSError as error:
                raise BadConfiguration(f"{file} cannot be read: {error.strerror}; name another file") from None
            except BadSound as bad:
                raise BadConfiguration(f"{file} {bad}; {bad.fix}") from None
            texts: list[str] = []
            for first in range(0, len(samples), frames * HOP):
                heard = log_mel(samples[first : first + frames * HOP], bands, frames)[None]
                (tokens,) = heard_tokens(
                    model,
                    heard,
                    prompt,
                    end=tokenizer.eos_id,
                    most=min(max_tokens or room, room),
                    compute_dtype=loaded.compute,
                )
                texts.append(tokenizer.decode(tokens).strip())
            text = " ".join(texts)
            if as_json:
                document = {"file": str(file), "text": text, "seconds": len(samples) / RATE}
                sys.stdout.write(f"{json.dumps(document, ensure_ascii=False)}\n")
            else:
                shown = printable(text) if sys.stdout.isatty() else text
                sys.stdout.write(f"{file}: {shown}\n" if len(files) > 1 else f"{shown}\n")
            sys.stdout.flush()
