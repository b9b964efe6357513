"""``spec.model``: the architecture, one object whose ``family`` decides what other fields it has.

Fields have the names of Hugging Face's ``config.json`` in camelCase. Sizes are numbers of features unless stated
otherwise.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import Field, TypeAdapter

from halcyon_api.base import Rule
from halcyon_api.spec import families
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.tokenizer import Uri


def _families() -> dict[str, type[ModelSection]]:
    """The classes of the folder `families` whose ``family`` has a value, by it; custom models last."""
    for file in pkgutil.iter_modules(families.__path__):
        importlib.import_module(f"{families.__name__}.{file.name}")
    found: dict[str, type[ModelSection]] = {}
    ahead = [ModelSection]
    while ahead:
        section = ahead.pop()
        ahead += section.__subclasses__()
        if isinstance(family := section.model_fields["family"].default, str):
            found[family] = section
    return {family: found[family] for family in sorted(found, key=lambda family: (family == "custom", family))}


FAMILIES = _families()
"""The families with their classes."""


class ModelFileSpec(ModelSection):
    """A model of a config.json, only in a document that `halcyon` or `kubectl halcyon` reads from a file.

    They replace this object by the one that the file describes, before they check the document.
    """

    family: Literal["huggingFace"] = "huggingFace"
    config_file: Uri
    """The `config.json` or the folder with it: a path, from the folder of the document if it is relative, s3://, gs://,
    or hf://OWNER/NAME. `halcyon resolve` prints the document with the model of the file."""

    rules: ClassVar = (
        Rule(
            "false",
            "the family huggingFace names a file, which only a command reads; print the document with its model by "
            "`halcyon resolve RUN.YAML`, and apply that",
            ".family",
        ),
    )


if TYPE_CHECKING:
    Model = ModelSection
else:
    Model = Annotated[Union[(*FAMILIES.values(), ModelFileSpec)], Field(discriminator="family")]
"""A model of any family."""

_MODEL: TypeAdapter[ModelSection] = TypeAdapter(Model)


def read_model(document: Any) -> ModelSection:
    """The model of a document of ``spec.model``.

    Raises:
        ValidationError: It is of no family, or does not fit its family.
    """
    return _MODEL.validate_python(document)
