"""Checks the conversation formats of a document before anything is built: the template, its marks, and the first row of
each source.
"""

from collections.abc import Callable

from halcyon.data.formats import build_formatter
from halcyon.data.sources import Access, list_files, pieces, read_pieces
from halcyon.data.sources.files import fetch_file
from halcyon.host.documents import is_local, local_paths
from halcyon.tokenizer import Tokenizer, load, resolve
from halcyon.tokenizer.bpe import train_bpe
from halcyon.tokenizer.special import OWN_SPECIAL_TOKENS
from halcyon.weights.chat_template import with_templates
from halcyon_api.training_run import TrainingRunSpec

_BYTES = 256


def check_formats(spec: TrainingRunSpec, note: Callable[[str], object]) -> None:
    """Check the conversation formats of a document.

    Only files of this machine are read. A document for a cluster, and a tokenizer or a source in a store, are not
    checked. A tokenizer that is to be trained is replaced by its special tokens and the bytes, which give the same
    marks.

    Args:
        spec: The spec of a valid document.
        note: Called with what a user should know of a format, as a sentence.

    Raises:
        TrainerExit: A file cannot be read or used; the message begins with the field.
    """
    if not is_local(spec) or not _templates_are_here(spec):
        return
    spec = with_templates(spec)
    tokenizer = _tokenizer(spec)
    for source in spec.data.sources:
        if source.format.conversation is not None:
            formatter = build_formatter(
                source.format,
                tokenizer,
                where=f"spec.data.sources[{source.name}].format",
                access=Access(),
                sight=spec.model.sight,
            )
            for sentence in formatter.notes:
                note(sentence)
            is_here = any(field.startswith(f"spec.data.sources[{source.name}].") for field in local_paths(spec))
            if is_here and source.on_bad_row != "skip":
                access = Access()
                rows = next(read_pieces(pieces(source, list_files(source, access), access), access), None)
                if rows:
                    formatter(rows[:1])


def _templates_are_here(spec: TrainingRunSpec) -> bool:
    tokenizer, origin = spec.tokenizer, spec.origin
    is_here = tokenizer.bpe or tokenizer.byte or any(field.startswith("spec.tokenizer.") for field in local_paths(spec))
    begins_with = None if origin is None else origin.root if origin.hugging_face is None else origin.hugging_face.path
    return bool(is_here) and "://" not in (begins_with or "").removeprefix("file://")


def _tokenizer(spec: TrainingRunSpec) -> Tokenizer:
    bpe = spec.tokenizer.bpe
    if bpe is not None:
        special = len(OWN_SPECIAL_TOKENS) + len(bpe.special_tokens)
        return load(train_bpe(["halcyon"], _BYTES + special, tuple(bpe.special_tokens)))
    return load(resolve(spec.tokenizer, lambda uri: fetch_file(uri, Access())))
