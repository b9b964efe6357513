"""The base class of tokenizers whose ids come from a library."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import ClassVar

import numpy as np

from halcyon.host.errors import BadConfiguration, TrainerExit
from halcyon.tokenizer.cut import DocumentEncoder
from halcyon.tokenizer.protocol import Tokenizer


@contextmanager
def errors_of_library(where: str) -> Iterator[None]:
    """Turn an error of a library into a sentence. Libraries stop patterns that need too many steps; some by a panic of
    Rust, which is no `Exception`.

    Args:
        where: The tokenizer's field in the run document.

    Raises:
        BadConfiguration: The library cannot encode or decode.
    """
    try:
        yield
    except (TrainerExit, UnicodeError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if not isinstance(error, ValueError | RuntimeError | MemoryError) and type(error).__name__ != "PanicException":
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise BadConfiguration(
            f"{where}.path: the tokenizer cannot encode a text ({reason}); use another tokenizer"
        ) from None


class LibraryTokenizer(Tokenizer):
    """Encodes texts of any length through its library; the base class of the three kinds."""

    where: ClassVar[str]
    """The tokenizer's field in the run document."""

    @cached_property
    @abstractmethod
    def _documents(self) -> DocumentEncoder:
        """The encoder of documents."""

    def encode(self, text: str | bytes) -> np.ndarray:
        """Token ids of a text, without special tokens: int32, shape [tokens]."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Token ids of each text: int32, shape [tokens]."""
        with errors_of_library(self.where):
            return self._documents.encode_batch(texts)
