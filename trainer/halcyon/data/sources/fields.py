"""The fields of a row that a format reads. Other columns of a columnar file are not fetched."""

from collections.abc import Collection, Sequence

from halcyon.data.forms.form import BadConversation, named_form, recognise
from halcyon.data.sources.failures import Unreadable
from halcyon_api.spec.sources import FormatSpec


def needed_fields(spec: FormatSpec, names: Collection[str] = ()) -> tuple[str, ...]:
    """The fields that a format reads, in a fixed order.

    Args:
        spec: The format.
        names: The fields of the rows. The fields of a conversation that the document does not name are recognised among
            them.

    Raises:
        BadConversation: The document names no fields, and no form has these.
    """
    return recognise(spec, names).needed if spec.row_fields is None else spec.row_fields


def named_fields(spec: FormatSpec) -> tuple[str, ...] | None:
    """The fields that a format reads, if the document or a default names them; None: the rows decide."""
    return None if spec.row_fields is None and named_form(spec) is None else needed_fields(spec)


def columns_of(spec: FormatSpec, file: str, names: Collection[str]) -> tuple[str, ...]:
    """The columns of a file that a format reads; some may not exist.

    Raises:
        Unreadable: See `needed_fields`.
    """
    try:
        return needed_fields(spec, names)
    except BadConversation as bad:
        raise Unreadable(f"{file} {bad}; {bad.fix}") from None


def existing_columns(spec: FormatSpec, file: str, names: Sequence[str]) -> tuple[str, ...]:
    """The columns of a table that a format reads.

    Raises:
        Unreadable: A column does not exist.
    """
    columns = columns_of(spec, file, names)
    for column in columns:
        if column not in names:
            raise Unreadable(
                f"{file} has no column {column!r}, only {', '.join(names[:20])}; name the column in format, or leave "
                "files of another schema out"
            )
    return columns
