"""The base classes of all types of the contract: strict, immutable, camelCase in documents and snake_case in Python.

A rule that JSON Schema cannot express is one `Rule` of its class: the expression, which the API server evaluates at
apply and `halcyon_api.expressions` for documents that are read without one, and the message of both. A rule that
compares with the object before an edit can be evaluated by the API server only; it is a `cel` expression alone.

The text below a field is its description in the schemas (`generate/crd.py`).
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from halcyon_api.expressions import evaluated
from halcyon_api.names import MAX_RUN_NAME_LENGTH
from halcyon_api.printable import printable

MAX_NAME_LENGTH = 253
"""Longest name of a Kubernetes object that is not a label (RFC 1123 subdomain)."""

MAX_FILE_NAME_BYTES = 255


CelRule = dict[str, str]
"""A validation rule of the API server, as it stands in a schema."""


def cel(rule: str, message: str, *, field_path: str | None = None, reason: str | None = None) -> CelRule:
    """One validation rule of the API server.

    Args:
        rule: A CEL expression over ``self`` (and ``oldSelf`` in a transition rule).
        message: The sentence for the user. If it starts with ``=``, the rest is a CEL expression that evaluates to the
            sentence.
        field_path: The field that the error names, relative to the object of the rule, such as ``.mesh.ici``.
        reason: One of the API server's machine-readable reasons, such as ``FieldValueForbidden``.
    """
    entry = {"rule": rule}
    entry |= {"messageExpression": message[1:].strip()} if message.startswith("=") else {"message": message}
    if field_path:
        entry["fieldPath"] = field_path
    if reason:
        entry["reason"] = reason
    return entry


def exactly_one(members: Iterable[str]) -> str:
    """The expression that an object has exactly one of some members.

    `halcyon_api.generate.json_schema` recognises this form.
    """
    return f"[{', '.join(f'has(self.{member})' for member in members)}].exists_one(one, one)"


@dataclass(frozen=True)
class Rule:
    """A rule over an object, for the API server and for documents that are read without one."""

    expression: str
    """In CEL, over ``self``."""
    message: str
    """The sentence for the user."""
    field_path: str | None = None
    """The field that the error names, relative to the object, such as ``.heads``."""
    details: Callable[[Any], str] | None = None
    """Values to append to the sentence. CEL does not have them."""
    check: Callable[[Any], bool] | None = None
    """The rule in Python, where it finds more than the expression, or `halcyon_api.expressions` does not read that."""

    def holds(self, value: Any) -> bool:
        """Whether an object keeps the rule."""
        return (self.check or evaluated(self.expression))(value)

    def for_api_server(self) -> CelRule:
        """The rule in the schema."""
        return cel(self.expression, self.message, field_path=self.field_path)

    def sentence(self, value: Any) -> str:
        """The sentence for an object that breaks the rule."""
        return self.message + (self.details(value) if self.details is not None else "")


def shows(*names: str) -> Callable[[Any], str]:
    """`Rule.details` that lists the values of some fields. The names are those of the document."""

    def details(value: Any) -> str:
        document = value.document()
        return f" ({', '.join(f'{name} {document[name]}' for name in names if name in document)})"

    return details


class InvalidRun(ValueError):
    """The document is not a valid TrainingRun. The message has one sentence for each error, with the field."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ApiModel(BaseModel):
    """A strict, frozen object: unknown fields are errors, no value is converted to another type.

    Its validator is built where the class is defined. Pydantic would build a later one (``defer_build``, or the name of
    a class that does not exist yet) at its first use, from the local variables of the caller. Python 3.13.0 to 3.13.2
    end on that by a segmentation fault if the caller is a comprehension whose variable a closure uses
    (https://github.com/python/cpython/issues/128396).
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        validate_by_alias=True,
        validate_by_name=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """Rules over the whole object. The first broken one is reported."""
    fields_of: ClassVar[type[BaseModel] | None] = None
    """The class whose fields this one has been given, and whose source describes them. None: its own."""
    cel_rules: ClassVar[tuple[CelRule, ...]] = ()
    """Rules for the API server only; other code checks them, if at all, for documents that are read without it."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if cls.rules and not issubclass(cls, RuledModel):
            raise TypeError(f"{cls.__name__} declares rules, so it must be a RuledModel")
        if not cls.__pydantic_complete__:
            raise TypeError(
                f"{cls.__name__} has no validator yet; define the classes of its fields before it, and do not use "
                "defer_build"
            )

    def but(self, **changes: Any) -> Self:
        """The same object with other values of some fields. They are not checked again."""
        return self.model_copy(update=changes)

    def document(self) -> dict[str, Any]:
        """The object as a YAML or JSON document: camelCase, without members that are None."""
        return self.model_dump(by_alias=True, mode="json", exclude_none=True)

    @classmethod
    def parse(cls, content: bytes | None) -> Self | None:
        """A stored document; None if it is absent or not valid."""
        try:
            return None if content is None else cls.model_validate_json(content, by_alias=True, by_name=False)
        except ValidationError:
            return None


@functools.cache
def fields_by_name(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a class by their names in documents."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def optional(description: str | None = None, **constraints: Any) -> Any:
    """A field that a document may leave out: it is None then.

    Args:
        description: What the field says, for the schema. None: the text below the field.
        constraints: Further arguments of pydantic's `Field`.
    """
    return Field(default=None, description=description, **constraints)


class StatusModel(ApiModel):
    """A part of a status or a report. Ignores unknown fields, which a newer operator or trainer may have written."""

    model_config = ConfigDict(extra="ignore")


class RuledModel(ApiModel):
    """An object whose `rules` are checked.

    A class of its own, because the check costs each object of each class some time.
    """

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        broken = next((rule for rule in type(self).rules if not rule.holds(self)), None)
        if broken is not None:
            raise ValueError(broken.sentence(self))
        return self


@functools.cache
def _optional_members(model: type[ApiModel]) -> tuple[str, ...]:
    return tuple(name for name, field in model.model_fields.items() if field.default is None)


class OneOf(ApiModel):
    """A choice among kinds: an object with exactly one member, named by the kind.

    Structural schemas have no tagged unions, so every kind is an optional member and a CEL rule requires exactly one.
    """

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(getattr(self, name) is not None for name in type(self).kinds()) != 1:
            raise ValueError(type(self).one_of_message())
        return self

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The attribute names of the kinds: the optional members.

        A member that is not optional is common to all kinds.
        """
        return _optional_members(cls)

    @classmethod
    def members(cls) -> tuple[str, ...]:
        """The members of which a stored object has exactly one: the kinds, and those that its rules reject in a
        sentence of their own.
        """
        return cls.kinds()

    @classmethod
    def one_of_message(cls) -> str:
        """The error message when no kind or several kinds are set."""
        return f"set exactly one of {', '.join(to_camel(kind) for kind in cls.kinds())}"

    @classmethod
    def one_of_rule(cls) -> CelRule:
        """The rule "exactly one" for the API server."""
        return cel(exactly_one(map(to_camel, cls.members())), cls.one_of_message())

    @property
    def kind(self) -> str:
        """The name of the member that is set, in camelCase."""
        return to_camel(next(name for name in type(self).kinds() if getattr(self, name) is not None))

    @property
    def value(self) -> ApiModel:
        """The member that is set."""
        return next(value for name in type(self).kinds() if (value := getattr(self, name)) is not None)


ObjectName = Annotated[
    str, StringConstraints(max_length=MAX_NAME_LENGTH, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), Field(min_length=1)
]
"""Name of another object in the same namespace."""

RunName = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_RUN_NAME_LENGTH, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
]

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
Quantity = Annotated[str, StringConstraints(max_length=32, pattern=QUANTITY_PATTERN)]
"""A Kubernetes resource quantity, such as ``500m`` or ``2Gi``."""

AtLeastOne = Annotated[int, Field(ge=1)]
"""A whole number from 1 on."""

Ratio = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""

Seconds = Annotated[int, Field(ge=0, le=31_536_000)]
"""A whole number of seconds, at most a year."""

StepCount = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""A number of steps."""

StepNumber = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""Steps done, or a number of steps that may be 0."""

Timestamp = Annotated[str, StringConstraints(max_length=40), Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339 time in UTC."""
