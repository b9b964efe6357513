"""Nested values of Arrow tables, as the same rows in JSON have them.

A struct column has the keys of all its rows: a row without a key has null there. So the arguments of one tool would
show the names of the arguments of all other tools. Null in a struct is therefore read as "the key is absent". The table
does not tell whether a row had the key with null; programs that write such rows leave the key out, with one exception:
the content of a message is null where the message only calls tools, and templates test it (``message.content is
none``). So `content` of a message stays. Elements of a list keep their places, so null among them stays too. A text
that holds JSON is not looked into: to keep a null in the arguments of a call, write them as JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_SPEAKERS = ("role", "from")
_SAID = ("content", "value")


def has_structs(kind: pa.DataType) -> bool:
    """Whether values of a type are, or contain, structs or maps."""
    import pyarrow as pa

    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return True
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    is_list = is_list or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return is_list and has_structs(kind.value_type)


def without_nulls(value: Any) -> Any:
    """A value without the members of structs that are null."""
    if isinstance(value, list):
        return [without_nulls(member) for member in value]
    if isinstance(value, dict):
        speaks = any(value.get(name) is not None for name in _SPEAKERS)
        return {
            name: without_nulls(member)
            for name, member in value.items()
            if member is not None or (speaks and name in _SAID)
        }
    return value
