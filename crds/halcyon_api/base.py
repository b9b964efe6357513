"""The bases of all types of the contract: strict, immutable, camelCase outside and snake_case inside.

Rules of the schema that JSON Schema cannot say are written in CEL (the API server checks them at apply) next to the field they are
about. Where a document is read outside a cluster the same promise is kept by a validator in Python, so both are declared together.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from halcyon_api.names import MAX_RUN_NAME_LENGTH

MAX_NAME_LENGTH = 253
"""Longest name of a Kubernetes object that is not a label (RFC 1123 subdomain)."""


def cel(rule: str, message: str, *, field_path: str | None = None, reason: str | None = None) -> dict[str, str]:
    """One validation rule of the API server.

    Args:
        rule: A CEL expression over ``self`` (and ``oldSelf`` in a transition rule).
        message: The sentence the user reads. If it starts with ``=`` the rest is a CEL expression that makes the sentence.
        field_path: The field to blame, relative to the object the rule is on, such as ``.mesh.ici``.
        reason: One of the API server's machine-readable reasons, such as ``FieldValueForbidden``.
    """
    entry = {"rule": rule}
    entry |= {"messageExpression": message[1:].strip()} if message.startswith("=") else {"message": message}
    if field_path:
        entry["fieldPath"] = field_path
    if reason:
        entry["reason"] = reason
    return entry


class ApiModel(BaseModel):
    """A strict, frozen object: unknown fields are errors, nothing is coerced."""

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

    cel_rules: ClassVar[tuple[dict[str, str], ...]] = ()
    """Rules over the whole object, in the order in which the user should read them."""

    def document(self) -> dict[str, Any]:
        """The object as it is written in YAML or JSON: camelCase, absent members left out."""
        return self.model_dump(by_alias=True, mode="json", exclude_none=True)


class OneOf(ApiModel):
    """A choice among kinds: an object with exactly one member, named by the kind.

    Structural schemas have no tagged unions, so every kind is an optional member and CEL says "exactly one".
    """

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(getattr(self, name) is not None for name in type(self).kinds()) != 1:
            raise ValueError(type(self).one_of_message())
        return self

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The names of the members, as attributes. A member that is not optional is common to all kinds and does not count."""
        return tuple(name for name, field in cls.model_fields.items() if field.default is None)

    @classmethod
    def one_of_message(cls) -> str:
        """The sentence for a user who set none or several."""
        return f"set exactly one of {', '.join(to_camel(kind) for kind in cls.kinds())}"

    @classmethod
    def one_of_rule(cls) -> dict[str, str]:
        """The rule "exactly one" for the API server."""
        members = ", ".join(f"has(self.{to_camel(kind)})" for kind in cls.kinds())
        return cel(f"[{members}].filter(present, present).size() == 1", cls.one_of_message())

    @property
    def kind(self) -> str:
        """The name of the member that is set, as it is written in the document."""
        return to_camel(next(name for name in type(self).kinds() if getattr(self, name) is not None))

    @property
    def value(self) -> ApiModel:
        """The member that is set."""
        return next(value for name in type(self).kinds() if (value := getattr(self, name)) is not None)


ObjectName = Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), Field(min_length=1)]
"""Name of another object in the same namespace."""

RunName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_RUN_NAME_LENGTH, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]
"""Name of a TrainingRun."""

Quantity = Annotated[str, StringConstraints(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
"""A Kubernetes resource quantity, such as ``500m`` or ``2Gi``."""

Seconds = Annotated[int, Field(ge=0, le=31_536_000)]
"""A whole number of seconds, at most a year."""

Timestamp = Annotated[str, StringConstraints(max_length=40), Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339 time in UTC."""
