"""Learned tensors of a published model that Halcyon does not train: of layers that predict further tokens, and of the
parts for images.

They stay as they are. An import copies their bytes into the checkpoint root, below ``huggingface/kept/``: safetensors
files, then a document with the place and the hash of each tensor. A copy that was killed has no document, and is made
again. Every export writes the tensors under their names in the files.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from halcyon.checkpoint.parts import decode_report, encode_report
from halcyon.checkpoint.verify import Damaged
from halcyon.host.storage.store import Store
from halcyon.weights.layout import FileTensor
from halcyon.weights.safetensors import StoredTensor, TensorFiles, size_of, write_header, write_pieces
from halcyon_api.checkpoint_documents import HUGGING_FACE_PREFIX, DamagedDocument, Document
from halcyon_api.counting import counted, size

_PREFIX = f"{HUGGING_FACE_PREFIX}kept/"
_KEY = f"{_PREFIX}KEPT.json"
_FILE_BYTES = 256 << 20
"""Largest file, unless one tensor is larger: an object store takes a file from memory."""
_PIECE_BYTES = 64 << 20
"""Bytes that are read at a time."""
_Tensor = TypeVar("_Tensor", bound="FileTensor | KeptTensor")


class KeptTensor(Document):
    """A tensor, and the place of its bytes."""

    name: str
    """Its name in the files of the model."""
    part: str
    """The part of the model that has it."""
    type: str
    """The type of its elements, as the header of a safetensors file names it."""
    shape: tuple[int, ...]
    file: str
    start: int
    """Place of its first byte in the file."""
    sha256: str = ""
    """Of its bytes; empty in the files of the model."""

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements."""
        return size_of(self.type, self.shape)


class Kept(Document):
    """The tensors of a model that are kept."""

    tensors: tuple[KeptTensor, ...]
    tokens: int
    """Tokens of the vocabulary in the files of the model."""
    names: Mapping[str, str] = {}
    """How names of the text model begin in the files of a model with images, by their first words in the files of a
    text model. Empty: there is no part for images."""


@dataclass(frozen=True)
class KeptParts:
    """The parts of a model that are kept, in its files or in a root.

    Attributes:
        files: The place.
        listed: The tensors.
    """

    files: TensorFiles
    listed: Kept

    def described(self, tokens: int) -> str:
        """What is kept, in a sentence.

        Args:
            tokens: Tokens of the vocabulary that the model has now.
        """
        tensors, before = self.listed.tensors, self.listed.tokens
        parts = ", ".join(dict.fromkeys(one.part for one in tensors))
        shown = size(sum(one.size_bytes for one in tensors))
        changed = f"; their vocabulary has {before} tokens, and that of the model {tokens}" if tokens != before else ""
        return f"kept {counted(len(tensors), 'tensor')} of {parts} ({shown}) as they are{changed}"

    def pieces(self, tensor: KeptTensor, digests: list[str]) -> Iterator[bytes | memoryview]:
        """The bytes of a tensor, in pieces.

        Args:
            tensor: The tensor.
            digests: Receives their hash.

        Raises:
            Damaged: After all pieces: they are not those that were written.
            StoreFailure: The store did not answer.
        """
        digest, (count, *_) = hashlib.sha256(), (*tensor.shape, 1)
        step = max(_PIECE_BYTES * count // max(tensor.size_bytes, 1), 1)
        for start in range(0, count, step):
            data = self.files.data(tensor.name, start, min(start + step, count))
            digest.update(data)
            yield data
        digests.append(digest.hexdigest())
        if tensor.sha256 not in ("", digests[-1]):
            raise Damaged(f"{tensor.file}: the bytes of {tensor.name} are not those that were written")


def read_kept(root: Store) -> KeptParts | None:
    """The parts that a checkpoint root keeps; None: it keeps none.

    Raises:
        Damaged: Their document is damaged.
        StoreFailure: The store did not answer.
    """
    data = root.read(_KEY).data
    try:
        if data is None:
            return None
        kept = decode_report(Kept, data)
        tensors = {one.name: StoredTensor(one.file, one.type, one.shape, one.start) for one in kept.tensors}
        return KeptParts(TensorFiles(root, tensors=tensors), kept)
    except DamagedDocument as damage:
        raise Damaged(f"{_KEY}: {damage}") from None


def in_files(tensors: Iterable[_Tensor], file_bytes: int) -> list[list[_Tensor]]:
    """The tensors of each file: in order, at most this size together unless one tensor is larger."""
    groups: list[list[_Tensor]] = [[]]
    held = 0
    for one in tensors:
        if groups[-1] and held + one.size_bytes > file_bytes:
            groups.append([])
            held = 0
        groups[-1].append(one)
        held += one.size_bytes
    return groups


def keep_parts(parts: KeptParts | None, root: Store) -> None:
    """Copy parts of a model into a checkpoint root without a checkpoint. They replace what an earlier start has kept.

    Args:
        parts: The parts. None: the model has none.
        root: The root.

    Raises:
        Damaged: The bytes in the other root are not those that were written.
        StoreFailure: A store did not answer.
    """
    root.delete_prefix(_PREFIX)
    if parts is None:
        return
    kept: list[KeptTensor] = []
    for number, group in enumerate(in_files(parts.listed.tensors, _FILE_BYTES), 1):
        file = f"{_PREFIX}{number:05}.safetensors"
        header = write_header([(one.name, one.type, one.shape) for one in group])
        digests: list[str] = []
        copied = itertools.chain.from_iterable(parts.pieces(one, digests) for one in group)
        write_pieces(root, file, itertools.chain((header,), copied))
        start = len(header)
        for one, digest in zip(group, digests, strict=True):
            kept.append(one.but(file=file, start=start, sha256=digest))
            start += one.size_bytes
    root.write(_KEY, encode_report(parts.listed.but(tensors=tuple(kept))))
