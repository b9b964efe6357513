"""Writes down what a model hears: the token with the greatest logit, again and again, until the end of the text."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np

from halcyon.data.formats.speech import prompt_of
from halcyon.data.image import inline
from halcyon.data.named_files import BadFile, named
from halcyon.data.sound import HOP, MOST_BYTES, RATE, decoded, log_mel
from halcyon.host.errors import BadConfiguration
from halcyon.models import CausalLM, Inputs
from halcyon.models.axes import BATCH, MEL, POSITION
from halcyon.models.families.whisper import Whisper
from halcyon.tokenizer import Tokenizer
from halcyon_api.plain_files import require_file

_LONGEST_SECONDS = 4 * 3600
_TOGETHER = 8
"""Parts of sounds that are heard at once."""


class Heard(NamedTuple):
    """What is said in a sound, and how long it is."""

    text: str
    seconds: float


def read_sound(path: Path) -> bytes:
    """The bytes of a file, but for those far beyond the limit of sounds.

    Raises:
        OSError: It is no file, or it cannot be read.
    """
    require_file(path)
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def file_of(value: Any, folder: Path) -> bytes:
    """The bytes of a file that a row names; see `halcyon.data.named_files.named`.

    Args:
        value: The field of the row; an image may be a ``data:`` URI.
        folder: The folder of the row's file; a path is below it.

    Raises:
        ValueError: It is neither bytes nor such a path.
        OSError: The file cannot be read.
    """
    given = named(inline(value))
    if isinstance(given, bytes):
        return given
    path = (folder / given).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{given!r} is not below {folder}")
    return read_sound(path)


@dataclass(frozen=True, eq=False)
class Transcriber:
    """Writes down sounds with one model.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        compute_dtype: Type of activations and matrix products.
    """

    model: Whisper
    tokenizer: Tokenizer
    compute_dtype: Any = jnp.float32

    @classmethod
    def of(cls, model: CausalLM, tokenizer: Tokenizer, compute_dtype: Any) -> Self:
        """That of a model.

        Raises:
            BadConfiguration: The model hears no sounds.
        """
        if not isinstance(model, Whisper):
            raise BadConfiguration(
                "the model is not of the family whisper, so it hears no sound; use `halcyon sample`, or other tasks"
            )
        return cls(model, tokenizer, compute_dtype)

    @property
    def seconds(self) -> float:
        """The time that the model hears at once."""
        return self.model.sound[0] * HOP / RATE

    def samples(self, name: str, content: bytes, longest_seconds: float = _LONGEST_SECONDS) -> np.ndarray:
        """The samples of a file; see `halcyon.data.sound.decoded`.

        Args:
            name: The words that name it in an error.
            content: Its bytes.
            longest_seconds: The longest sound.

        Raises:
            BadConfiguration: It cannot be read.
        """
        try:
            return decoded(content, longest_seconds)
        except BadFile as bad:
            raise BadConfiguration(f"{name} {bad}; {bad.fix}") from None

    def groups(self, samples: np.ndarray) -> list[list[np.ndarray]]:
        """A sound cut into parts that the model hears at once; 8 are computed together, of the rest 4, 2 and 1."""
        length = self.model.sound[0] * HOP
        parts, found = [samples[first : first + length] for first in range(0, len(samples), length)], []
        while parts:
            size = min(_TOGETHER, 1 << len(parts).bit_length() - 1)
            found.append(parts[:size])
            parts = parts[size:]
        return found

    def prompt(self, language: str | None, task: str = "transcribe") -> tuple[int, ...]:
        """See `halcyon.data.formats.speech.prompt_of`."""
        return prompt_of(self.tokenizer, language, task, "language")

    def texts(self, parts: Sequence[np.ndarray], prompt: Sequence[int], max_tokens: int | None = None) -> list[str]:
        """What is said in each part.

        Args:
            parts: A group of `groups`.
            prompt: The tokens that a text begins with.
            max_tokens: Most tokens of a text. None: those that the model has positions for.
        """
        frames, bands = self.model.sound
        room = self.model.max_position.size - len(prompt)
        heard = np.stack([log_mel(part, bands, frames) for part in parts])
        rows = heard_tokens(
            self.model,
            heard,
            prompt,
            end=self.tokenizer.eos_id,
            most=min(max_tokens or room, room),
            compute_dtype=self.compute_dtype,
        )
        return [self.tokenizer.decode(row).strip() for row in rows]


def written_texts(
    transcriber: Transcriber,
    sounds: Iterable[tuple[str, bytes]],
    language: str | None,
    *,
    task: str = "transcribe",
    max_tokens: int | None = None,
) -> Iterator[Heard]:
    """What is said in each sound. Longer ones are cut into the time that the model hears at once.

    Args:
        transcriber: Writes it down.
        sounds: The words that name it in an error, and the bytes of its file.
        language: See `Transcriber.prompt`.
        task: As there.
        max_tokens: Most tokens of the text of a part.

    Raises:
        BadConfiguration: The tokenizer lacks the language, or a sound cannot be read.
    """
    prompt = transcriber.prompt(language, task)
    for name, content in sounds:
        samples = transcriber.samples(name, content)
        texts = [text for group in transcriber.groups(samples) for text in transcriber.texts(group, prompt, max_tokens)]
        yield Heard(" ".join(texts), len(samples) / RATE)


def heard_tokens(
    model: Whisper, sounds: np.ndarray, prompt: Sequence[int], *, end: int, most: int, compute_dtype: Any = jnp.float32
) -> list[np.ndarray]:
    """The tokens of the text of each sound, without the prompt and the end: int32 [tokens] each.

    Args:
        model: The model.
        sounds: See `Inputs.sound`: float32 [sound, frame, mel].
        prompt: The tokens that each text begins with, at least one.
        end: The token that ends a text.
        most: Most tokens of a text.
        compute_dtype: Type of activations and matrix products.

    Raises:
        ValueError: The prompt and the text are longer than the model's positions.
    """
    dtype = jnp.dtype(compute_dtype)
    found = np.asarray(_written(model, jnp.asarray(sounds), jnp.asarray(prompt, jnp.int32), end, most, dtype))
    return [row[row != end] for row in found]


@functools.partial(jax.jit, static_argnums=(4, 5))
def _written(model: Whisper, sounds: jax.Array, prompt: jax.Array, end: int, most: int, dtype: jnp.dtype) -> jax.Array:
    """The tokens after the prompt; `end` from the end of a text on: int32 [sound, most]."""
    rows = len(sounds)
    heard = model.heard(hax.named(sounds, (BATCH, POSITION, MEL)), dtype)

    def following(tokens: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        inputs = Inputs(hax.named(tokens, (BATCH, POSITION)), sound=heard)
        outputs = model(inputs, cache=cache, compute_dtype=dtype)
        logits = model.logits(outputs.features[POSITION, -1]).rearrange((BATCH, model.vocab.name)).array
        return jnp.argmax(logits, -1).astype(jnp.int32), outputs.cache

    def step(state: Any) -> Any:
        number, token, cache, texts = state
        after, cache = following(token[:, None], cache)
        after = jnp.where(token == end, end, after)
        return number + 1, after, cache, texts.at[:, number].set(after)

    first, cache = following(
        jnp.broadcast_to(prompt, (rows, len(prompt))), model.new_cache(rows, len(prompt) + most, dtype)
    )
    texts = jnp.full((rows, most), end, jnp.int32).at[:, 0].set(first)
    goes_on = lambda state: (state[0] < most) & jnp.any(state[1] != end)  # noqa: E731
    return jax.lax.while_loop(goes_on, step, (jnp.int32(1), first, cache, texts))[3]
