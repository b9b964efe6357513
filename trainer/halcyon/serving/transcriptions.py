"""``POST /v1/audio/transcriptions``: what is said in a file of sound.

The file is decoded in a thread of its own, with the limits of sounds in training data (`halcyon.data.sound`). The
engine's thread then computes some parts of the sound at a time, so that requests take turns.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from halcyon.host.errors import BadConfiguration
from halcyon.inference.speech import RATE, Transcriber
from halcyon.serving.errors import check_model, invalid
from halcyon.serving.requests import StrictPart
from halcyon.serving.served import Served

_LONGEST_SECONDS = 3600


class TranscriptionRequest(StrictPart):
    """The fields of the form of ``POST /v1/audio/transcriptions``; all values but the file are text."""

    model_config = ConfigDict(strict=False, arbitrary_types_allowed=True)

    file: bytes
    model: str | None = None
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] | None = None
    response_format: Literal["json", "text", "verbose_json"] = "json"
    temperature: Annotated[float, Field(ge=0, le=0)] = 0.0
    """The most likely token is taken always."""
    user: str | None = None


Heard = tuple[Transcriber, np.ndarray, tuple[int, ...]]
"""Who writes a sound down, its samples, and the tokens that a text begins with."""


def heard(request: TranscriptionRequest, served: Served, compute: Any) -> Heard:
    """The sound of a request.

    Raises:
        ApiError: The request is not valid, or the model hears no sounds.
    """
    check_model(request.model, served.name)
    try:
        transcriber = Transcriber.of(served.model, served.tokenizer, compute)
        prompt = transcriber.prompt(request.language)
    except BadConfiguration as error:
        raise invalid(str(error)) from None
    try:
        return transcriber, transcriber.samples("the sound", request.file, _LONGEST_SECONDS), prompt
    except BadConfiguration as error:
        raise invalid(str(error), "file") from None


def document_of(request: TranscriptionRequest, sound: Heard, texts: list[str]) -> dict[str, Any] | str:
    """The answer, in OpenAI's form. A segment is the time that the model hears at once.

    Args:
        request: The request.
        sound: What was heard.
        texts: The text of each part.
    """
    transcriber, samples, _ = sound
    text = " ".join(texts)
    if request.response_format == "text":
        return f"{text}\n"
    if request.response_format == "json":
        return {"text": text}
    seconds = len(samples) / RATE
    segments = [
        {"id": number, "start": number * transcriber.seconds, "end": min(seconds, (number + 1) * transcriber.seconds)}
        | {"text": part}
        for number, part in enumerate(texts)
    ]
    return {
        "task": "transcribe",
        "language": request.language,
        "duration": seconds,
        "text": text,
        "segments": segments,
    }


def warm_up(served: Served, compute: Any) -> None:
    """Compile the program of a sound that the model hears at once. Others are compiled at their first request."""
    transcriber = Transcriber.of(served.model, served.tokenizer, compute)
    transcriber.texts([np.zeros(1, np.int16)], transcriber.prompt(None))
