"""The errors of a document as sentences: each has the field and the fix. Pure.

pydantic's own messages name Python classes and types. The most common errors are described here in the terms of the
document instead: a misspelt or misplaced field gets the field that was probably meant, and a section of the wrong type
gets the list of its fields.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from halcyon_api.base import QUANTITY_PATTERN, fields_by_name
from halcyon_api.printable import one_line
from halcyon_api.spec.families.custom import CLASS_PATTERN
from halcyon_api.spec.objective import REWARD_PATTERN

MAX_SHOWN = 12
"""Maximum number of fields that a sentence lists."""
_MAX_WORD = 60
_STEPS = ("spec", "trainer", "steps")
_EPOCHS = "`halcyon data stats RUN.YAML --set spec.trainer.steps=1` prints the steps for 1, 2 and 3 epochs"
_NEAR = 0.7
_OURS = {
    "activationFunction": "hiddenAct",
    "batch": "batchSize",
    "epochs": "steps",
    "heads": "numAttentionHeads",
    "hiddenActivation": "hiddenAct",
    "initializerStd": "initializerRange",
    "kvHeads": "numKeyValueHeads",
    "layers": "numHiddenLayers depth",
    "lr": "learningRate",
    "maxEpochs": "steps",
    "maxSteps": "steps",
    "nEmbd": "hiddenSize",
    "nHead": "numAttentionHeads",
    "nHeads": "numAttentionHeads",
    "nInner": "intermediateSize",
    "nLayer": "numHiddenLayers depth",
    "nLayers": "numHiddenLayers depth",
    "nRoutedExperts": "numExperts numLocalExperts",
    "normEpsilon": "rmsNormEps layerNormEpsilon",
    "numExperts": "nRoutedExperts numLocalExperts",
    "numHeads": "numAttentionHeads",
    "numEpochs": "steps",
    "numHiddenLayers": "depth",
    "numLayers": "numHiddenLayers depth",
    "numLocalExperts": "numExperts nRoutedExperts",
    "numTrainEpochs": "steps",
    "rmsNormEps": "layerNormEpsilon",
    "seqLen": "sequenceLength",
    "tieEmbeddings": "tieWordEmbeddings",
    "warmup": "warmupSteps",
}
_SYNONYMS = {name: ours.split() for name, ours in _OURS.items()}
"""Field names of other trainers, and of other sections, with ours. The first that the section has is meant."""

PATTERNS = {
    r"^[a-z]([-a-z0-9]*[a-z0-9])?$": "begin with a letter, end with a letter or digit, and hold only "
    "lower-case letters, digits and -",
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": "begin and end with a letter or digit, and hold only lower-case "
    "letters, digits and -",
    r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$": "begin and end with a letter or digit, and hold only lower-case "
    "letters, digits, - and .",
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$": "be empty, or begin and end with a letter or digit, and hold only "
    "lower-case letters, digits, - and .",
    r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$": "be the ID of a project: 6 to 30 lower-case letters, digits and -",
    r"^[a-z]{2,3}$": "be the code of a language, such as en",
    r"^[a-z0-9-]+$": "hold only lower-case letters, digits and -",
    r"^[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?$": "be two or three numbers with x between them, such as 4x4",
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$": "be a date, such as 2026-03-31",
    r"^https?://[A-Za-z0-9.:\[\]-]+$": "be http:// or https://, a host and perhaps a port, without a path",
    r"^[^\s-].*$": "not begin with a space or -",
    r"^(/[A-Za-z0-9._-]+)+$": "be a path from /, of letters, digits, ., _ and -",
    r"^/[^/].*$": "be a path from /",
    r"^[A-Za-z0-9][A-Za-z0-9._/-]*$": "be a name such as OWNER/NAME, of letters, digits, ., _, - and /",
    r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$": "be the name of an image, of letters, digits, ., _, :, /, @ and -",
    r"^[-._A-Za-z0-9]+$": "hold only letters, digits, -, _ and .",
    r"^[A-Z][A-Z0-9_]*$": "begin with a capital letter, and hold only capital letters, digits and _",
    r"^[SL]+$": "hold only the letters S and L",
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$": "be the key of a label, "
    "such as example.com/rack",
    r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$": "begin and end with a letter or digit, and hold only letters, "
    "digits, -, _ and .",
    CLASS_PATTERN: "be the import path of a class, such as package.module:Class",
    QUANTITY_PATTERN: "be a number and perhaps a unit, such as 16G or 16Gi (m, k, M, G, T, Ki, Mi, Gi, Ti)",
    REWARD_PATTERN: "be gsm8k, spellingBee, or the import path of a function, such as package.module:function",
}
"""What the text of a field must do or be, by the pattern of the field."""

Location = tuple[str | int, ...]


def sentences(model: type[BaseModel], faults: Sequence[Mapping[str, Any]]) -> list[str]:
    """The errors of a document as sentences, each of which begins with its field.

    Args:
        model: The type of the whole document.
        faults: The entries of a validation error.
    """
    meant = {fault["loc"]: meant_field(model, fault["loc"]) for fault in faults if fault["type"] == "extra_forbidden"}
    # A required field with a misspelt name is one error, not two.
    shown = [fault for fault in faults if fault["type"] != "missing" or fault["loc"] not in meant.values()]
    return [
        _sentence(_name(in_document(model, _place(fault))), _what(model, fault, meant.get(fault["loc"])))
        for fault in shown
    ]


def first_fault(error: ValidationError, whole: str = "") -> str:
    """The first fault of a value as ``field: what``.

    Args:
        error: The error.
        whole: Names the whole value, for a fault of several fields together. Empty: such a fault is given without a
            field.
    """
    fault = error.errors()[0]
    field = ".".join(map(str, fault["loc"])) or whole
    what = fault["msg"].removeprefix("Value error, ")
    return f"{field}: {what}" if field else what


def _place(fault: Mapping[str, Any]) -> Location:
    return (*fault["loc"], "family") if fault["type"].startswith("union_tag") else fault["loc"]


def _sentence(name: str, what: str) -> str:
    """The sentence of one error. The message of a rule over the whole document already begins with its field."""
    return what if name == "document" and what.startswith(("spec.", "metadata.")) else f"{name}: {what}"


def _name(location: Location) -> str:
    parts = (one_line(str(part)) for part in location)
    return ".".join(part if len(part) <= _MAX_WORD else f"{part[:_MAX_WORD]}…" for part in parts) or "document"


def _what(model: type[BaseModel], fault: Mapping[str, Any], meant: Location | None) -> str:
    kind, location = fault["type"], fault["loc"]
    if kind == "extra_forbidden":
        if _of_another_family(model, location):
            near = synonym(str(location[-1]), fields_at(model, location[:-1]))
            return f"no field of {location[-2]}; " + (f"did you mean {near}?" if near else "take it out")
        if meant is not None:
            beside = meant[:-1] == location[:-1]
            name = str(meant[-1] if beside else ".".join(map(str, meant)))
            return f"unknown field; {did_you_mean(str(location[-1]), name)}"
        fields = fields_at(model, location[:-1])
        return f"unknown field; there are {_listed(fields)}" if fields else "unknown field; take it out"
    if kind == "missing":
        return "required, and not there; add it" + (f" ({_EPOCHS})" if location == _STEPS else "")
    if kind.startswith("union_tag"):
        return _family_fault(fault)
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        fields = fields_at(model, location)
        return "must be an object" + (f" with the fields {_listed(fields)}" if fields else " of names and values")
    if kind == "list_type":
        return "must be a list; put - before each entry"
    if kind == "string_type" and isinstance(fault.get("input"), bool | int | float):
        return f"must be a text, not {_yaml_word(fault['input'])}; put it in quotes"
    if kind == "int_type" and isinstance(fault.get("input"), str):
        return f"must be a whole number, not the text {_shown(fault['input'])}; take the quotes away"
    if kind in ("int_type", "int_from_float") and isinstance(fault["input"], bool | float):
        return f"must be a whole number, not {_yaml_word(fault['input'])}"
    if kind == "float_type":
        return f"must be a number, not {_shown(fault['input'])}"
    if kind == "string_pattern_mismatch":
        pattern: str = fault["ctx"]["pattern"]
        return f"{_shown(fault['input'])} must {PATTERNS.get(pattern, 'be as the reference says')}"
    message: str = fault["msg"].removeprefix("Value error, ")
    for subject in ("Input should", "String should", "List should"):
        message = message.replace(subject, "must", 1)
    return message


def _of_another_family(model: type[BaseModel], location: Location) -> bool:
    """Whether a family has an unknown field of another one."""
    plain = in_document(model, location)
    return plain != location and plain[-1] in fields_at(model, plain[:-1])


def _family_fault(fault: Mapping[str, Any]) -> str:
    """What is wrong with the family of a model."""
    families = [name.strip("'") for name in fault["ctx"].get("expected_tags", "").split(", ")]
    if fault["type"] == "union_tag_invalid":
        written = str(fault["ctx"]["tag"])
        near = nearest(written, families)
        return f"there is no family {_shown(written)}; " + (
            f"did you mean {near}?" if near else f"there are {', '.join(families)}"
        )
    names = list(fault["input"])
    if len(names) == 1 and isinstance(fault["input"][names[0]], dict):
        return f"required, and not there; write family: {one_line(str(names[0]))}, and the fields beside it"
    return "required, and not there; add it, such as family: llama"


def meant_field(model: type[BaseModel], location: Location) -> Location | None:
    """The field that a user meant with an unknown field; None if no field is similar."""
    *section, last = location
    written = to_camel(str(last))
    fields = fields_at(model, section)
    wanted = _SYNONYMS.get(written, [written])[0]
    if (near := synonym(str(last), fields) or nearest(str(last), fields)) is not None:
        return (*section, near)
    places = [place for place in dict.fromkeys(_places(model, wanted)) if place[0] != "status"]
    inside = in_document(model, tuple(section))
    below = [place for place in places if place[: len(inside)] == inside]
    if below:
        return min(below, key=len)
    outermost = [place for place in places if len(place) == min(map(len, places))]
    return outermost[0] if len(outermost) == 1 else None


def synonym(word: str, fields: Sequence[str]) -> str | None:
    """The field of a section that has another name elsewhere; None if there is none."""
    written = to_camel(word)
    return next((name for name in _SYNONYMS.get(written, [written]) if name in fields), None)


def did_you_mean(word: str, field: str) -> str:
    """The question after an unknown field; one about epochs has the way to steps."""
    return f"did you mean {field}?" + (f" {_EPOCHS}" if "epoch" in word.lower() and field.endswith("steps") else "")


def nearest(word: str, choices: Sequence[str]) -> str | None:
    """The choice most similar to a misspelt word; None if no choice is similar."""
    if len(word) > _MAX_WORD:
        return None
    plain = {choice.replace("-", "").replace("_", "").lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.replace("-", "").replace("_", "").lower(), list(plain), n=1, cutoff=_NEAR)
    return plain[found[0]] if found else None


def fields_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The field names at a location of a document; empty if the schema has none there."""
    models = [model]
    for part in location:
        models = _below(models, part)
    return list(dict.fromkeys(name for one in models for name, _ in _fields(one)))


def in_document(model: type[BaseModel], location: Location) -> Location:
    """A location of pydantic without what the document lacks: after ``model`` comes the family of the model."""
    models, found = [model], list[str | int]()
    for part in location:
        if part not in [_family(one) for one in models]:
            found.append(part)
        models = _below(models, part)
    return tuple(found)


def _below(models: Sequence[type[BaseModel]], part: str | int) -> list[type[BaseModel]]:
    """The models at a part of a location: those of a field, of an entry of a list, or the one of a family."""
    if isinstance(part, int):
        return list(models)  # the annotation of the list already gave the type of its entries
    chosen = [one for one in models if _family(one) == part]
    return chosen or [child for one in models for name, children in _fields(one) if name == part for child in children]


def _family(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("family")
    return field.default if field is not None and isinstance(field.default, str) else None


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, list[type[BaseModel]]]]:
    """Each field of a model with the models of its annotation."""
    for name, field in fields_by_name(model).items():
        yield name, list(models_in(field.annotation))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models of an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def _places(model: type[BaseModel], wanted: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The locations of all fields with a given name."""
    for name, children in _fields(model):
        if name == wanted:
            yield (*above, name)
        for child in children:
            if len(above) < 8:
                yield from _places(child, wanted, (*above, name))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_SHOWN])
    return f"{shown} and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else shown


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_WORD else f"{text[:_MAX_WORD]}…"


def _yaml_word(value: bool | int | float) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
