"""Tokens of prompts, and answers to many prompts at once, with a calculator.

At the end of a call of the calculator (`halcyon.inference.calculator`) the engine ends the request, and a new request
goes on from the text with the result. Requests of all prompts share the engine's slots.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from halcyon.evals.example import Prompt
from halcyon.host.errors import BadConfiguration
from halcyon.inference import Engine, Sampling
from halcyon.inference.calculator import Calculator
from halcyon.inference.chat import ChatPrompts
from halcyon.inference.generating import prompt_ids
from halcyon.inference.sequence import Token
from halcyon.inference.text import StopStrings, TextStream
from halcyon.tokenizer import Tokenizer


@dataclass(eq=False)
class Prompts:
    """Makes tokens of prompts.

    Args:
        tokenizer: The model's tokenizer.
        chat: The chat template. None: prompts are plain text.
    """

    tokenizer: Tokenizer
    chat: ChatPrompts | None

    def seen(self, prompt: Prompt) -> tuple[np.ndarray, np.ndarray | None]:
        """The tokens of a prompt up to the answer, int32 [tokens], and its images; see `ChatPrompts.seen`.

        Raises:
            BadConfiguration: The template does not take its messages, or there is none for images.
        """
        if self.chat is None:
            if prompt.images:
                raise BadConfiguration("a question with an image needs a chat template; give that of the model")
            return prompt_ids(self.tokenizer, prompt.plain), None
        *before, last = map(dict, prompt.messages)
        if prompt.images:
            parts = [{"type": "image", "image": image} for image in prompt.images]
            last["content"] = [*parts, {"type": "text", "text": last["content"]}]
        return self.chat.seen([*before, last])

    def answer_ids(self, answer: str) -> np.ndarray:
        """The tokens of an answer after a prompt: int32 [tokens]. Plain text has a space before a short answer."""
        return self.tokenizer.encode(f" {answer}" if self.chat is None else answer)

    def stop(self, prompt: Prompt) -> tuple[str, ...]:
        """Strings before which an answer ends."""
        return prompt.stop if self.chat is None else ()


@dataclass(frozen=True)
class Text:
    """An answer.

    Attributes:
        text: The answer, without special tokens; expressions and results of the calculator belong to it.
        tokens: Number of its tokens.
        finish: ``stop``: the model ended it. ``length``: it reached its most tokens. ``prompt``: the prompt leaves no
            room for an answer.
    """

    text: str
    tokens: int
    finish: str


@dataclass
class _Answer:
    """An answer that is not complete."""

    prompt: np.ndarray
    images: np.ndarray | None
    settings: Sampling
    stream: TextStream
    stops: StopStrings
    tokens: list[int] = field(default_factory=list[int])
    text: str = ""


@dataclass(eq=False)
class Answers:
    """Asks an engine.

    Args:
        engine: An engine without requests.
        prompts: The model's prompts.
        on_step: Called before each step of the engine.
    """

    engine: Engine
    prompts: Prompts
    on_step: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self._calculator = None if self.prompts.chat is None else Calculator.of(self.prompts.tokenizer)
        ends = (self.prompts.chat or self.prompts.tokenizer).ends
        self._ends = (*ends, *(() if self._calculator is None else (self._calculator.end,)))

    def answers(
        self, prompts: Sequence[tuple[np.ndarray, np.ndarray | None]], settings: Sequence[Sampling]
    ) -> list[Text]:
        """The answers to some prompts, in their order.

        Args:
            prompts: Those of `Prompts.seen`.
            settings: The settings of each; its most tokens are fewer where the engine's length ends.
        """
        texts: dict[int, Text] = {}
        asked: dict[int, tuple[int, _Answer]] = {}
        for place, ((prompt, images), sampling) in enumerate(zip(prompts, settings, strict=True)):
            room = min(sampling.max_tokens, self.engine.length - len(prompt))
            if room < 1:
                texts[place] = Text("", 0, "prompt")
                continue
            stream = TextStream(self.prompts.tokenizer, prompt.tolist())
            sampling = replace(sampling, max_tokens=room)
            answer = _Answer(prompt, images, sampling, stream, StopStrings(sampling.stop))
            asked[self._submit(answer)] = (place, answer)
        while self.engine.unfinished:
            self.on_step()
            for token in self.engine.step():
                place, answer = asked[token.sequence]
                finish = self._add(answer, token)
                if finish is None and token.finish is not None:  # a call of the calculator
                    asked[self._submit(answer)] = (place, answer)
                elif finish is not None:
                    self.engine.cancel(token.sequence)
                    texts[place] = Text(answer.text, len(answer.tokens), finish)
        return [texts[place] for place in range(len(prompts))]

    def _submit(self, answer: _Answer) -> int:
        ids = np.concatenate((answer.prompt, np.array(answer.tokens, np.int32)))
        left = answer.settings.max_tokens - len(answer.tokens)
        # A sequence after a call has random numbers of its own; they are a function of the seed and of the tokens
        # before.
        seed = (answer.settings.seed + 1_000_003 * len(answer.tokens)) % (1 << 32)
        settings = replace(answer.settings, max_tokens=left, seed=seed)
        return self.engine.submit(ids, settings, ends=self._ends, images=answer.images)

    def _add(self, answer: _Answer, token: Token) -> str | None:
        """Add a token.

        Returns why the answer is complete; None: it goes on, by a new sequence if this one has ended.
        """
        answer.tokens.append(token.id)
        calculator, most = self._calculator, answer.settings.max_tokens
        calls = calculator is not None and token.id == calculator.end
        shown = "" if token.finish == "stop" and not calls else answer.stream.push(token.id)
        result = calculator.result(np.array(answer.tokens, np.int32)) if calculator is not None and calls else []
        finish: str | None = None
        if not calls:
            finish = "length" if len(answer.tokens) >= most and token.finish != "stop" else token.finish
        elif len(answer.tokens) + len(result) < most:
            answer.tokens += result
            shown += "".join(map(answer.stream.push, result))
        else:
            finish = "length"
        if finish is not None:
            shown += answer.stream.finish()
        text, stopped = answer.stops.push(shown)
        answer.text += text
        if stopped:
            return "stop"
        if finish is not None:
            answer.text += answer.stops.finish()
        return finish
