"""Texts to score, and the rows of tokens that a model reads for them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from halcyon.host.errors import BadConfiguration


@dataclass(frozen=True)
class Span:
    """The end of a text, which is scored.

    Attributes:
        tokens: The text: int32 [tokens].
        start: The place of its first token that is scored; at least 1.
        name: What it belongs to, for errors.
        images: Pixels of the images whose tokens are in the text, uint8 [image, row, column, colour]. None: none.
    """

    tokens: np.ndarray
    start: int
    name: str = "a text"
    images: np.ndarray | None = None


class Score(NamedTuple):
    """The log-likelihood of a span."""

    log_prob: float
    """Sum of the logarithms of the probabilities of its tokens, in nats."""
    tokens: int
    """Number of its tokens."""
    is_greedy: bool
    """Whether each of its tokens is the most likely one."""

    @property
    def per_token(self) -> float:
        """Mean logarithm of a token's probability."""
        return self.log_prob / self.tokens


class TokenRow(NamedTuple):
    """The tokens that the model reads, and the tokens that are scored after the last of its positions."""

    inputs: np.ndarray
    """int32 [position]."""
    targets: np.ndarray
    """int32 [scored, target]: the tokens after each of the last positions.

    There is one, or there are several after one position.
    """
    spans: tuple[int, ...]
    """Numbers of the spans: one, or one for each target."""
    images: np.ndarray | None = None
    """See `Span.images`."""

    @property
    def context(self) -> int:
        """Positions before the first one that is scored."""
        return len(self.inputs) - len(self.targets)

    def scores(self, log_probs: np.ndarray, best: np.ndarray) -> dict[int, Score]:
        """The scores of its spans.

        Args:
            log_probs: float32 [scored, target], and perhaps padding.
            best: int32 [scored]: the most likely tokens.
        """
        count = len(self.targets)
        if len(self.spans) == 1:
            total = float(np.sum(log_probs[:count, 0], dtype=np.float64))
            return {self.spans[0]: Score(total, count, bool(np.all(best[:count] == self.targets[:, 0])))}
        return {
            span: Score(float(log_probs[0, place]), 1, bool(best[0] == self.targets[0, place]))
            for place, span in enumerate(self.spans)
        }


def rows_of(spans: Sequence[Span], most: int) -> list[TokenRow]:
    """The rows for some spans.

    Args:
        spans: The spans.
        most: Positions of the model. A longer text loses its beginning.

    Raises:
        BadConfiguration: The scored part alone is longer.
        ValueError: A span has no token, or no token before it.
    """
    rows: list[TokenRow] = []
    after: dict[tuple[bytes, int], list[int]] = {}
    for number, span in enumerate(spans):
        if not 1 <= span.start < len(span.tokens):
            raise ValueError(
                f"{span.name}: the scored part begins at {span.start} of {len(span.tokens)} tokens; give a part with a "
                "token"
            )
        count = len(span.tokens) - span.start
        if count > most or (span.images is not None and len(span.tokens) > most + 1):
            raise BadConfiguration(
                f"{span.name}: {count} of {len(span.tokens)} tokens are scored, and the model has {most} positions; "
                "leave the example out"
            )
        inputs = np.asarray(span.tokens[:-1], np.int32)[-most:]
        if count == 1:
            after.setdefault((inputs.tobytes(), id(span.images)), []).append(number)
        else:
            rows.append(TokenRow(inputs, np.asarray(span.tokens[-count:], np.int32)[:, None], (number,), span.images))
    for (text, _), numbers in after.items():
        targets = np.array([[spans[number].tokens[-1] for number in numbers]], np.int32)
        images = spans[numbers[0]].images
        rows.append(TokenRow(np.frombuffer(text, np.int32), targets, tuple(numbers), images))
    return rows


def power(number: int, least: int) -> int:
    """The smallest power of two that is at least `number` and `least`."""
    return 1 << max(number - 1, least - 1, 0).bit_length()


def bucket(number: int, least: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16, ... that is at least `number` and `least`."""
    above = power(number, least)
    between = above * 3 // 4
    return between if between >= max(number, least) and above >= 4 else above
