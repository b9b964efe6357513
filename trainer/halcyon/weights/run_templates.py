"""The chat templates of a run whose document names none: that of the model that it begins with, or that belongs to its
tokenizer.

A process takes them once, at its start, into the spec. So the token caches, the checkpoints and the exports know the
text, and a later start with another text is a changed run. Where no file has a template, the data keeps Halcyon's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from halcyon.checkpoint.opening import load_head
from halcyon.checkpoint.origin import origin_store
from halcyon.checkpoint.verify import Damaged, read_manifest
from halcyon.data.fetch import fetch_file
from halcyon.data.sources import Access
from halcyon.storage.failures import StoreFailure, as_exit
from halcyon.storage.store import Store
from halcyon.weights.chat_template import template_of_run
from halcyon.weights.companions import TEMPLATE_KEYS, read_companions, template_of
from halcyon.weights.folder import HUB, folder_place
from halcyon_api.checkpoint_documents import HUGGING_FACE_PREFIX
from halcyon_api.spec.sources import DataSourceSpec, FormatSpec
from halcyon_api.training_run import TrainingRunSpec


def with_templates(spec: TrainingRunSpec) -> TrainingRunSpec:
    """The spec with a template for each conversation format that names none, as far as a file has one.

    Args:
        spec: The run's spec.

    Raises:
        BadConfiguration: A file of the model is damaged.
        DataUnreachable: A store does not answer, or denies access.
        TrainerExit: The root of the run that this one begins from does not answer.
    """
    if not any(_lacks_template(source.format) for source in spec.data.sources):
        return spec
    access = Access.of(spec.checkpoint)
    template = _of_origin(spec, access) or _of_tokenizer(spec, access)
    if template is None:
        return spec
    sources = [
        _with_template(source, template) if _lacks_template(source.format) else source for source in spec.data.sources
    ]
    return spec.model_copy(update={"data": spec.data.model_copy(update={"sources": sources})})


def _lacks_template(form: FormatSpec) -> bool:
    return form.conversation is not None and form.conversation.template is None


def _with_template(source: DataSourceSpec, template: str) -> DataSourceSpec:
    name = source.format.kind
    section = getattr(source.format, name).model_copy(update={"template": template})
    return source.model_copy(update={"format": source.format.model_copy(update={name: section})})


def _of_origin(spec: TrainingRunSpec, access: Access) -> str | None:
    origin = spec.origin
    if origin is None:
        return None
    if origin.hugging_face is None:
        return None if origin.root is None else _of_root(origin_store(origin, spec.checkpoint))
    path = origin.hugging_face.path
    if path.startswith(HUB):
        return _of_folder(path, lambda uri: fetch_file(uri, access))
    own = spec.checkpoint
    endpoint, region = (own.endpoint, own.region) if path.startswith("s3://") else (None, None)
    return template_of(read_companions(Store(folder_place(path, endpoint, region))))


def _of_root(store: Store) -> str | None:
    """The template of the newest checkpoint that can be read; None: there is none, or it has no template."""
    try:
        head, _ = load_head(store)
        for entry in head.committed if head is not None else ():
            try:
                data = read_manifest(store, entry).fingerprints.documents.get("spec.data") or {}
            except Damaged:
                continue
            return template_of_run(data, read_companions(store, HUGGING_FACE_PREFIX))
    except StoreFailure as failure:
        raise as_exit(failure, store.root, what="spec.from: the root of the other run", field="spec.from") from failure
    return None


def _of_tokenizer(spec: TrainingRunSpec, access: Access) -> str | None:
    named = spec.tokenizer.tokenizer_json or spec.tokenizer.sentence_piece
    if named is None:
        return None
    folder = named.path if not named.path.endswith((".json", ".model")) else named.path.rpartition("/")[0] or "."
    return _of_folder(folder, lambda uri: fetch_file(uri, access))


def _of_folder(folder: str, fetch: Callable[[str], bytes]) -> str | None:
    """The template in the files of a folder, which are read in their order until one has it."""
    for name in TEMPLATE_KEYS:
        try:
            files: Mapping[str, bytes] = {name: fetch(f"{folder.rstrip('/')}/{name}")}
        except OSError:  # it is not there, or may not be read
            continue
        if (found := template_of(files)) is not None:
            return found
    return None
