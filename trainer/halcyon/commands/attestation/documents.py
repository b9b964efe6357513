"""The documents of ``halcyon prove``: the statement and its envelope.

A statement is an in-toto Statement v1 (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md). All of
its predicate but ``claims`` follows from the chain of evidence, so a reader of the root derives it again and compares.
An envelope is one of DSSE (https://github.com/secure-systems-lab/dsse/blob/master/envelope.md).
"""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, NonNegativeInt, ValidationError

from halcyon_api.base import ApiModel
from halcyon_api.checkpoint_documents import Document, Sha256, canonical_json
from halcyon_api.printable import one_line
from halcyon_api.replays import ReplayRecord

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "halcyon.dev/training/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MOST_BYTES = 8 * 2**20
"""Bytes of a document: a statement of some 40,000 checkpoints."""
MOST_SIGNATURES = 64
"""Signatures of an envelope. Each costs a verification."""
_MOST_VALUES = 200_000
"""Values of a document. Each takes hundreds of bytes of memory if it is not of the expected form."""
_MOST_DEPTH = 32
_LONGEST = 200

Steps = NonNegativeInt
_From = Annotated[Steps, Field(validation_alias="from", serialization_alias="from")]
_To = Annotated[Steps, Field(validation_alias="to", serialization_alias="to")]
Parsed = TypeVar("Parsed", bound=ApiModel)


class Unacceptable(ValueError):
    """A document that is not of the expected form. The message is a clause without a subject."""


class Digest(ApiModel):
    """A digest set of in-toto."""

    sha256: Sha256


class Subject(ApiModel):
    """A checkpoint of the chain."""

    name: str
    """Its prefix below the root, without the last slash."""
    digest: Digest
    """Of its state: the SHA-256 of the list of its files, with their hashes."""


class Sections(ApiModel):
    """The document of the run, as far as it decides numbers."""

    sha256: Sha256
    """Of the canonical JSON of `sections`."""
    sections: dict[str, Sha256]
    """SHA-256 of each section."""


class StatedChain(ApiModel):
    """The chain of evidence."""

    head: Sha256
    """SHA-256 of its newest link."""
    links: Steps
    """Number of links."""
    first: _From
    """Steps done before its first link."""
    last: _To
    """Steps done at its newest link."""
    audited: Steps | None = None
    """Step of the last audit before it that found all numbers right."""


class Computed(ApiModel):
    """Steps that the same hardware, mesh and software has computed."""

    first: _From
    """Steps done before."""
    last: _To
    """Steps done after."""
    hardware: str
    mesh: dict[str, int]
    versions: dict[str, str]


class Image(ApiModel):
    """The image of the trainer that the document names."""

    name: str
    digest: Digest | None = None
    """If the name has one."""


class Claims(ApiModel):
    """What no reader of the root can derive: only a signature says who states it."""

    image: Image | None = None
    """If the document names one."""
    replays: tuple[ReplayRecord, ...] = ()


class Predicate(ApiModel):
    """How the checkpoints were computed."""

    run: str
    """NAMESPACE/NAME of the run."""
    document_: Sections = Field(validation_alias="document", serialization_alias="document")
    data: Digest | None = None
    """Of the description of the data: hashes, counts and lengths."""
    chain: StatedChain
    computed: tuple[Computed, ...]
    """By what, from the newest step to the oldest."""
    claims: Claims


class Statement(ApiModel):
    """An in-toto Statement v1 about the checkpoints of a chain, the newest first."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(validation_alias="_type", serialization_alias="_type")
    subject: tuple[Subject, ...] = Field(min_length=1)
    predicate_type: Literal["halcyon.dev/training/v1"]
    predicate: Predicate


class Signature(Document):
    """A signature of an envelope. The id of its key is a hint that nothing authenticates, so it is not read."""

    sig: str


class Envelope(Document):
    """A DSSE envelope. Other members are ignored, as DSSE asks."""

    payload: str
    payload_type: str
    signatures: tuple[Signature, ...] = Field(min_length=1, max_length=MOST_SIGNATURES)


def encode(document: ApiModel) -> bytes:
    """The canonical JSON of a document."""
    return canonical_json(document.document())


def decode(text: str | bytes, kind: type[Parsed]) -> Parsed:
    """A document of a stranger. Its canonical JSON is that of what was read, so nothing in it is ignored.

    Args:
        text: The JSON.
        kind: The class of the document.

    Raises:
        Unacceptable: It is not such a document.
    """
    value = parse(text)
    found = read_as(value, kind)
    if canonical_json(value) != encode(found):
        raise Unacceptable("has a member that is null, or has another name than its field")
    return found


def read_as(value: Any, kind: type[Parsed]) -> Parsed:
    """A parsed value as a document.

    Raises:
        Unacceptable: It is not such a document.
    """
    try:
        return kind.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise Unacceptable(f"is not of the expected form ({shown(where)}: {shown(first['msg'])})") from None


def parse(text: str | bytes) -> Any:
    """The value of a JSON text of few values, in which no object has a key twice, and nothing is nested deeply.

    Raises:
        Unacceptable: It is not such a text.
    """
    signs = (",", "[", "{") if isinstance(text, str) else (b",", b"[", b"{")
    if sum(text.count(sign) for sign in signs) > _MOST_VALUES:  # pyright: ignore[reportArgumentType]
        raise Unacceptable(f"has more than {_MOST_VALUES:,} values")
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse)
    except Unacceptable:
        raise
    except RecursionError:
        raise Unacceptable(f"is nested deeper than {_MOST_DEPTH} levels") from None
    except ValueError:  # also bytes that are no text, and numbers of thousands of digits
        raise Unacceptable("is not JSON") from None
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return value
    raise Unacceptable(f"is nested deeper than {_MOST_DEPTH} levels")


def shown(text: str) -> str:
    """A text of a stranger for a sentence: short, without signs that would change a terminal."""
    return one_line(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Unacceptable("has an object with a key that is given twice")
    return found


def _refuse(constant: str) -> Any:
    raise Unacceptable(f"has {constant}, which is no number of JSON")


def _children(node: Any) -> Any:
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
