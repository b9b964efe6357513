"""The chat template of a model: that of the data that it was trained on, or of the files of Hugging Face that belong to
it.

A run whose document names no template takes that of the model that it begins with, or that belongs to its tokenizer. A
process takes it once, at its start, into the spec. So the token caches, the checkpoints and the exports know the text,
and a later start with another text is a changed run. Where no file has a template, the data keeps Halcyon's own.
"""

import re
from collections.abc import Mapping
from json import dumps
from typing import Any

from halcyon.checkpoint.opening import entry_of, load_head
from halcyon.checkpoint.origin import origin_store
from halcyon.checkpoint.verify import Damaged, read_manifest
from halcyon.data.formats.template import DEFAULT_TEMPLATE
from halcyon.data.sources import Access
from halcyon.data.sources.files import fetch_file
from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.failures import StoreFailure, as_exit
from halcyon.host.storage.store import Store
from halcyon.weights.companions import TEMPLATE_KEYS, read_companions, template_of
from halcyon.weights.folder import HUB, files_folder, folder_place, root_place
from halcyon.weights.root import split_step, stored_model
from halcyon_api.checkpoint_documents import HUGGING_FACE_PREFIX
from halcyon_api.spec.sources import CONVERSATION_FORMATS, DataSourceSpec
from halcyon_api.training_run import TrainingRunSpec


def chat_template(place: str, *, endpoint: str | None = None, region: str | None = None) -> str | None:
    """The chat template of the model at a place; None: it has none.

    The arguments and errors are those of `halcyon.load`.
    """
    if (folder := files_folder(place, endpoint, region)) is not None:
        return template_of(read_companions(folder))
    root, step = split_step(place)
    store = Store(root_place(root, endpoint, region))
    stored = stored_model(store, entry_of(store, step))
    return template_of_run(stored.data, stored.files)


def template_of_run(data: Mapping[str, Any], files: Mapping[str, bytes]) -> str | None:
    """The chat template that a model was trained with; None: Halcyon's own, or none.

    It is that of the data. The files decide if the data has no template, several, or one that does not begin the
    assistant's turn.

    Args:
        data: ``spec.data`` of the run; may be empty.
        files: The files of the model that the run began with, by name.
    """
    of_data, of_files = _templates(data), template_of(files)
    if len(of_data) == 1 and (of_files is None or of_data[0] is None or "add_generation_prompt" in of_data[0]):
        return of_data[0]
    return of_files


def template_to_export(data: Mapping[str, Any], files: Mapping[str, bytes]) -> str | None:
    """The template for other programs; None: the model has none. Arguments: see `template_of_run`."""
    template = template_of_run(data, files)
    return DEFAULT_TEMPLATE if template is None and None in _templates(data) else template


def has_conversations(data: Mapping[str, Any]) -> bool:
    """Whether a run trains on conversations. ``data`` is its ``spec.data``; may be empty."""
    return bool(_templates(data))


def _templates(data: Mapping[str, Any]) -> list[str | None]:
    """The chat templates in ``spec.data``, each once; None: Halcyon's own."""
    forms = [source.get("format", {}) for source in data.get("sources", ())]
    found = [
        form[kind].get("template") for form in forms for kind in CONVERSATION_FORMATS if form.get(kind) is not None
    ]
    return list(dict.fromkeys(found))


def with_templates(spec: TrainingRunSpec) -> TrainingRunSpec:
    """The spec with a template for each conversation format that names none, as far as a file has one; and with the
    format's variables as the first lines of its template. So samples, evaluations, servers and exports have them too.

    Args:
        spec: The run's spec.

    Raises:
        BadConfiguration: A file of the model is damaged, or a template does not use a variable that is set.
        DataUnreachable: A store does not answer, or denies access.
        TrainerExit: The root of the run that this one begins from does not answer.
    """
    forms = [form for source in spec.data.sources if (form := source.format.conversation) is not None]
    of_files = None
    if any(form.template is None for form in forms):
        access = Access.of(spec.checkpoint)
        of_files = _of_origin(spec, access) or _of_tokenizer(spec, access)
    elif not any(form.template_variables for form in forms):
        return spec
    sources = [_with_template(source, of_files) for source in spec.data.sources]
    return spec.but(data=spec.data.but(sources=sources))


def _with_template(source: DataSourceSpec, of_files: str | None) -> DataSourceSpec:
    name, form = source.format.kind, source.format.conversation
    if form is None:
        return source
    template = of_files if form.template is None else form.template
    for variable, value in (form.template_variables or {}).items():
        if variable not in re.findall(r"[A-Za-z_]\w*", template or ""):  # whole names
            whose = "Halcyon's own template" if template is None else "the template"
            raise BadConfiguration(
                f"spec.data.sources[{source.name}].format.{name}.templateVariables: {whose} has no variable "
                f"{variable}; correct its name, or leave it out"
            )
        # Only a default: a request to a server may give another value.
        line = f"{{%- if {variable} is not defined %}}{{%- set {variable} = {dumps(value, ensure_ascii=False)} %}}"
        template = f"{line}{{%- endif %}}\n{template}"
    section = form.but(template=template, template_variables=None)
    return source.but(format=source.format.but(**{name: section}))


def _of_origin(spec: TrainingRunSpec, access: Access) -> str | None:
    origin = spec.origin
    if origin is None:
        return None
    if origin.hugging_face is None:
        return None if origin.root is None else _of_root(origin_store(origin, spec.checkpoint))
    path = origin.hugging_face.path
    if path.startswith(HUB):
        return _of_folder(path, access)
    return template_of(read_companions(Store(folder_place(path, *spec.checkpoint.settings_at(path)))))


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
    return _of_folder(folder, access)


def _of_folder(folder: str, access: Access) -> str | None:
    """The template in the files of a folder, which are read in their order until one has it."""
    for name in TEMPLATE_KEYS:
        try:
            files: Mapping[str, bytes] = {name: fetch_file(f"{folder.rstrip('/')}/{name}", access)}
        except OSError:  # it is not there, or may not be read
            continue
        if (found := template_of(files)) is not None:
            return found
    return None
