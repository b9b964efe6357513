"""The vocabulary of a run that has not read its data yet."""

from pathlib import Path
from typing import NamedTuple

from halcyon_api.mesh import ASSUMED_VOCABULARY, document_vocabulary
from halcyon_api.spec.tokenizer import TokenizerSpec


class Vocabulary(NamedTuple):
    """The tokens of a tokenizer."""

    tokens: int
    note: str = ""
    """Why the number is assumed; empty: it is known."""


def vocabulary_of(tokenizer: TokenizerSpec) -> Vocabulary:
    """The vocabulary of a document's tokenizer: by the document, or by the file if it is on this machine.

    Raises:
        BadConfiguration: The file is not of its kind.
    """
    named = tokenizer.tokenizer_json or tokenizer.sentence_piece
    if named is None:
        return Vocabulary(document_vocabulary(tokenizer))
    path = named.path.removeprefix("file://")
    if "://" in path or not Path(path).exists():
        where = f"spec.tokenizer.{tokenizer.kind}.path"
        return Vocabulary(ASSUMED_VOCABULARY, f"{named.path} is not on this machine; set {where} to a copy")
    from halcyon.tokenizer import load, resolve  # imports the library of its kind

    return Vocabulary(load(resolve(tokenizer, lambda uri: Path(uri.removeprefix("file://")).read_bytes())).vocab_size)
