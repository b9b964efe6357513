"""Reads documents: a file with YAML, or a parsed document, to a checked model. Each error is one sentence."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from halcyon_api.base import MAX_NAME_LENGTH, ApiModel, InvalidRun
from halcyon_api.local_roots import with_root_addresses
from halcyon_api.model_file import ReadModel, with_model
from halcyon_api.plain_files import read_text
from halcyon_api.printable import one_line
from halcyon_api.sentences import in_document, sentences
from halcyon_api.training_run import API_VERSION, TrainingRun
from halcyon_api.yaml_text import InvalidYaml, read_documents

Model = TypeVar("Model", bound=ApiModel)

SMALLEST_FLOAT32, LARGEST_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""The smallest number of float32 with all its digits, and the largest one."""
_NO_ROOT = (
    "spec.checkpoint.root: nothing says where the checkpoints of this run are kept; set it, or have "
    "checkpoint.rootPrefix set in the TrainingRunDefaults of its namespace"
)
_ROOT_PLACES = (("spec", "checkpoint"), ("spec", "checkpoint", "root"))


def parse_run(document: Any) -> TrainingRun:
    """Check a parsed YAML or JSON document that has been merged with its defaults.

    Raises:
        InvalidRun: The document does not fit the schema.
    """
    return read_document(TrainingRun, document)


def read_document(model: type[Model], document: Any) -> Model:
    """Check a parsed YAML or JSON document.

    Raises:
        InvalidRun: The document does not fit the schema.
    """
    _reject_other_kind(model, document)
    try:
        found = model.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        faults = error.errors()
    else:
        if beyond := sentences(model, list(_beyond_float32(document))):
            raise InvalidRun("; ".join(beyond))
        return found
    without = _without_nulls(
        document,
        [
            in_document(model, fault["loc"])
            for fault in faults
            if fault["input"] is None and fault["type"] != "extra_forbidden"
        ],
    )
    if without != document:
        return read_document(model, without)
    rootless = [fault for fault in faults if fault["type"] == "missing" and fault["loc"] in _ROOT_PLACES]
    others = [fault for fault in faults if fault not in rootless]
    raise InvalidRun("; ".join((*(_NO_ROOT for _ in rootless), *sentences(model, others))))


def _reject_other_kind(model: type[ApiModel], document: Any) -> None:
    """Reject a document of another kind with one sentence, instead of one for each of its fields."""
    wanted = model.__name__
    if not isinstance(document, dict):
        raise InvalidRun(f"document: this is no {wanted}; it begins with apiVersion: {API_VERSION} and kind: {wanted}")
    kind = cast("dict[str, Any]", document).get("kind")
    if kind != wanted and kind is not None:
        shown = one_line(kind) if isinstance(kind, str) and len(kind) <= MAX_NAME_LENGTH else "something else"
        hint = "; give it with --defaults" if kind == "TrainingRunDefaults" else ""
        raise InvalidRun(f"kind: this is {shown}, not {wanted}{hint}")


def _beyond_float32(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[dict[str, Any]]:
    """The faults of numbers that the trainer, which computes in float32, would take for infinity or 0."""
    if isinstance(value, Mapping | list):
        parts = cast("Mapping[str, Any] | list[Any]", value)
        for name, part in parts.items() if isinstance(parts, Mapping) else enumerate(parts):
            yield from _beyond_float32(part, (*place, name))
    elif isinstance(value, int | float) and value and not SMALLEST_FLOAT32 <= abs(value) <= LARGEST_FLOAT32:
        yield {"loc": place, "type": "float32", "msg": "must be a number of float32: 0, or of 1.2e-38 to 3.4e38"}


def _without_nulls(document: Any, places: Sequence[tuple[int | str, ...]]) -> Any:
    """A document without the null fields that must not be null. The API server also treats them as absent."""
    copy = deepcopy(document) if places else document
    for *above, last in places:
        node: Any = copy
        for part in above:
            try:
                node = node[part]
            except (LookupError, TypeError):  # a part of the error's location that the document does not have
                break
        if isinstance(node, dict) and cast("dict[Any, Any]", node).get(last, "") is None:
            del node[last]
    return copy


def load_run(path: Path, read_model: ReadModel | None = None) -> TrainingRun:
    """Read a ``run.yaml``.

    Args:
        path: The file.
        read_model: Reads the model of a config.json that the document names. Default: such a document is not valid.

    Raises:
        InvalidRun: The file is missing, is not YAML, or is not a valid TrainingRun.
    """
    return parse_run(with_root_addresses(with_model(read_one(path), path.parent, read_model)))


def read_one(path: Path, kind: str = "TrainingRun") -> Any:
    """The one YAML document of a file.

    Args:
        path: The file.
        kind: What the file should hold, for errors.

    Raises:
        InvalidRun: The file is missing, is not YAML, or holds several documents.
    """
    documents = read_yaml(path, kind)
    if len(documents) > 1:
        raise InvalidRun(f"{path}: {len(documents)} documents; give a file with one {kind}")
    return documents[0]


def read_yaml(path: Path, kind: str) -> list[Any]:
    """The YAML documents of a file, at least one. `kind` is what the file should hold, for errors.

    Raises:
        InvalidRun: The file is missing or is not YAML.
    """
    try:
        found = read_documents(read_text(path))
    except OSError as error:
        raise InvalidRun(f"{path}: {error.strerror}; give the path of a {kind} document") from None
    except UnicodeDecodeError as error:
        raise InvalidRun(f"{path}: not YAML: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except InvalidYaml as error:
        raise InvalidRun(f"{path}: {error}") from None
    if not found:
        raise InvalidRun(f"{path}: the file is empty; give the path of a {kind} document")
    return found
