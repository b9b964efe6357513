"""Text for prompts: the engine and a tokenizer together."""

import dataclasses
from collections import abc
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jax.typing import DTypeLike

from halcyon.host.errors import BadConfiguration
from halcyon.inference.chat import ChatPrompts
from halcyon.inference.engine import Engine
from halcyon.inference.sampling import MOST_SEED, Sampling
from halcyon.inference.sequence import Finish, Sequence, Token
from halcyon.models import CausalLM
from halcyon.tokenizer import Tokenizer, check_rows, first_id

Conversation = abc.Sequence[abc.Mapping[str, Any]]
"""Messages with ``role`` and ``content``."""
Prompt = str | abc.Sequence[int] | Conversation

Given = str | tuple[int, ...] | tuple[abc.Mapping[str, Any], ...]
"""A prompt as a completion shows it."""
_LENGTHS = 64
"""Lengths of engines are multiples of it, so that later calls find their programs compiled."""


class Piece(NamedTuple):
    """A part of the text after one of several prompts."""

    sequence: int
    """The number of the prompt, from 0."""
    text: str
    """It may be empty: a part of a character, or of a stop string, waits."""
    token: Token
    """The token that the part came with."""
    finish: Finish | None
    """Why the text ends here. None: it goes on."""


@dataclass(frozen=True)
class Completion:
    """The text for a prompt.

    Attributes:
        prompt: The prompt: a text, token ids, or messages.
        text: The text after it, without the token or the string that ended it. Empty without a tokenizer.
        tokens: The tokens of the text, with the ones that ended it.
        log_probs: The logarithm of the model's probability of each token, before temperature, filters and penalties.
        finish: ``stop``: at a token or a string that ends the text. ``length``: at its greatest length.
    """

    prompt: Given
    text: str
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish: Finish


class Collector:
    """Joins the parts of texts."""

    def __init__(self, prompts: abc.Sequence[Given]) -> None:
        self._prompts = tuple(prompts)
        self._texts = [""] * len(prompts)
        self._tokens: list[list[Token]] = [[] for _ in prompts]
        self._done: dict[int, Completion] = {}

    def add(self, piece: Piece) -> Completion | None:
        """Add a part. Returns the completion if it was the last part of its text."""
        number = piece.sequence
        self._texts[number] += piece.text
        self._tokens[number].append(piece.token)
        if piece.finish is None:
            return None
        tokens = self._tokens[number]
        done = self._done[number] = Completion(
            self._prompts[number],
            self._texts[number],
            tuple(token.id for token in tokens),
            tuple(token.log_prob for token in tokens),
            piece.finish,
        )
        return done

    @property
    def completions(self) -> list[Completion]:
        """Of the texts that have ended, in the order of their prompts."""
        return [self._done[number] for number in sorted(self._done)]


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> np.ndarray:
    """The tokens of a text that begins with `prompt`: int32 [tokens], at least one, because a model needs a token to
    begin with.
    """
    tokens = np.concatenate((tokenizer.prefix, tokenizer.encode(prompt))).astype(np.int32)
    return tokens if len(tokens) else np.array([first_id(tokenizer)], np.int32)


def default_tokens(model: CausalLM, prompts: abc.Sequence[np.ndarray]) -> int:
    """128, or what the positions of the model leave after the longest prompt; at least 1."""
    return max(1, min(128, model.max_position.size - max(map(len, prompts))))


def seeded(sampling: Sampling, count: int) -> list[Sampling]:
    """The same settings for some prompts, each with the next seed."""
    return [dataclasses.replace(sampling, seed=(sampling.seed + number) % (MOST_SEED + 1)) for number in range(count)]


def engine_for(
    model: CausalLM,
    tokenizer: Tokenizer,
    prompts: abc.Sequence[np.ndarray],
    max_tokens: int,
    *,
    slots: int,
    compute_dtype: DTypeLike,
) -> Engine:
    """An engine that is large enough for some prompts and their texts.

    Args:
        model: The model.
        tokenizer: Its tokenizer; only its tokens are chosen.
        prompts: The tokens of each prompt.
        max_tokens: Most tokens of a text.
        slots: Prompts that are computed at once, if there are more.
        compute_dtype: See `Engine`.
    """
    longest = max(map(len, prompts)) + max_tokens
    length = min(-(-longest // _LENGTHS) * _LENGTHS, model.max_position.size)
    return Engine(
        model, slots=min(slots, len(prompts)), length=length, tokens=tokenizer.vocab_size, compute_dtype=compute_dtype
    )


def pieces(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: abc.Sequence[np.ndarray],
    settings: abc.Sequence[Sampling],
    *,
    ends: abc.Sequence[int] | None = None,
    images: abc.Sequence[np.ndarray | None] | None = None,
) -> abc.Iterator[Piece]:
    """The texts of some prompts, in parts as they come.

    Args:
        engine: An engine without other requests.
        tokenizer: Decodes the tokens.
        prompts: The tokens of each prompt.
        settings: The settings of each prompt.
        ends: Tokens that end a text. Default: those of the tokenizer.
        images: The images of each prompt; see `Sequence.images`. None: there are none.

    Raises:
        ValueError: See `Engine.add`.
    """
    given = frozenset(tokenizer.ends if ends is None else ends)
    sequences = [
        Sequence(np.asarray(prompt, np.int32), sampling, given, images=pixels)
        for prompt, sampling, pixels in zip(prompts, settings, images or [None] * len(prompts), strict=True)
    ]
    indices: dict[int, int] = {}
    try:
        for index, sequence in enumerate(sequences):
            indices[engine.add(sequence)] = index
            sequence.begin(tokenizer)
        while engine.unfinished:
            for token in engine.step():
                index = indices[token.sequence]
                output = sequences[index].take(token)
                if output.finish is not None and token.finish is None:
                    engine.cancel(token.sequence)
                yield Piece(index, output.text, token, output.finish)
    finally:
        for number in indices:  # of a caller that stops reading
            engine.cancel(number)


@dataclass(frozen=True)
class _WithoutText:
    """Stands for a tokenizer where there is none: its tokens have no text."""

    vocab_size: int

    def decode(self, tokens: np.ndarray) -> str:
        """No text."""
        del tokens
        return ""


def _several(prompts: Any) -> abc.Sequence[Any]:
    """The prompts: one that is given alone is one of one."""
    if isinstance(prompts, str):
        return (prompts,)
    several = prompts if isinstance(prompts, np.ndarray) else tuple(prompts)
    is_one = (
        len(several)
        and not isinstance(several[0], str)
        and (isinstance(several[0], abc.Mapping) or np.ndim(several[0]) == 0)
    )
    return (several,) if is_one else tuple(several)


def _given(prompt: Any) -> Given:
    """A prompt as a completion shows it. See `generate` for the errors."""
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, np.ndarray) and len(prompt) and isinstance(prompt[0], abc.Mapping):
        wrong = [message for message in prompt if not isinstance(message, abc.Mapping) or "role" not in message]
        if wrong:
            raise TypeError(f"a message of a conversation needs a role and a content, unlike {str(wrong[0])[:80]}")
        return tuple(prompt)
    array = np.asarray(prompt)  # `Engine.add` checks whether the model has the tokens
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise TypeError(
            f"a prompt must be a text, a list of token ids or a list of messages, not an array of shape "
            f"{list(array.shape)} and type {array.dtype}"
        )
    if not array.size:
        raise ValueError("a prompt has no token ids; give at least one, such as the token that begins a document")
    return tuple(array.tolist())


def _is_conversation(prompt: Any) -> bool:
    return isinstance(prompt, tuple) and bool(prompt) and isinstance(prompt[0], abc.Mapping)


def _chat_of(model: CausalLM, tokenizer: Tokenizer | None, template: str | None) -> ChatPrompts:
    """What makes prompts of conversations.

    Raises:
        BadConfiguration: The model has no chat template.
    """
    template = getattr(tokenizer, "chat_template", None) if template is None else template
    chat = None if tokenizer is None else ChatPrompts.of(tokenizer, template, sight=model.sight)
    if chat is None:
        raise BadConfiguration(
            "the model has no chat template, so messages cannot become tokens; give one as template, or give a text"
        )
    return chat


def generate(
    model: CausalLM,
    tokenizer: Tokenizer | None,
    prompts: Prompt | abc.Sequence[Prompt],
    *,
    template: str | None = None,
    max_tokens: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: abc.Sequence[str] = (),
    slots: int = 8,
    compute_dtype: DTypeLike = np.float32,
) -> list[Completion]:
    """The texts that a model writes after some prompts.

    Args:
        model: A model of `halcyon.load`.
        tokenizer: Its tokenizer. None: prompts are token ids, and only a greatest length ends them.
        prompts: A prompt, or several: a text, before which the token that begins a document is put; token ids, which
            are taken as they are; or a conversation, a list of messages with ``role`` and ``content``, which the chat
            template renders up to the assistant's next words. Its images are bytes or ``data:`` URIs.
        template: Chat template (Jinja). Default: that of the model, as `halcyon.load` gives it with the tokenizer.
        max_tokens: Most tokens of a text. Default: 128, or what the positions of the model leave after the longest
            prompt.
        temperature: See `halcyon.inference.Sampling`, as for the next arguments.
        top_k: 0: no limit.
        top_p: 1: no limit.
        min_p: 0: no limit.
        repetition_penalty: 1: none.
        seed: Of the first prompt; each later prompt has the next number.
        stop: Strings that end a text.
        slots: Prompts that are computed at once.
        compute_dtype: Type of activations, matrix products and the cache.

    Returns:
        One completion for each prompt, in order. The random numbers of each belong to its own seed, not to its place
        beside others.

    Raises:
        BadConfiguration: There is a text and no tokenizer, a conversation and no chat template, the tokenizer has more
            ids than the model has rows, or the model cannot keep a cache.
        ValueError: A setting is out of its range, a prompt has no tokens or too many, or a token that the model does
            not have.
        TypeError: A prompt is neither a text nor token ids nor messages.
    """
    given = [_given(prompt) for prompt in _several(prompts)]
    if not given:
        return []
    with_chat = any(map(_is_conversation, given))
    if tokenizer is None and (stop or with_chat or any(isinstance(prompt, str) for prompt in given)):
        raise BadConfiguration(
            "there is no tokenizer, so text cannot become tokens; give one, or prompts of token ids without stop"
        )
    if tokenizer is not None:
        check_rows(tokenizer.vocab_size, model.token_count)
    using: Any = _WithoutText(model.token_count) if tokenizer is None else tokenizer
    chat = _chat_of(model, tokenizer, template) if with_chat else None

    def read(prompt: Any) -> tuple[np.ndarray, np.ndarray | None]:
        if isinstance(prompt, str):
            return prompt_ids(using, prompt), None
        return (np.array(prompt, np.int32), None) if chat is None or not _is_conversation(prompt) else chat.seen(prompt)

    ids, images = zip(*map(read, given), strict=True)
    most = default_tokens(model, ids) if max_tokens is None else max_tokens
    settings = seeded(Sampling(most, temperature, top_k, top_p, min_p, repetition_penalty, seed, tuple(stop)), len(ids))
    engine = engine_for(model, using, ids, most, slots=slots, compute_dtype=compute_dtype)
    collected = Collector(given)
    ends = () if tokenizer is None else None if chat is None else chat.ends
    for piece in pieces(engine, using, ids, settings, ends=ends, images=images):
        collected.add(piece)
    return collected.completions
