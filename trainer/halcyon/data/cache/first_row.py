"""The form of a source whose document does not name the fields: the form of its first row."""

from __future__ import annotations

from collections.abc import Sequence

from halcyon.data.formats.fields import bad_row
from halcyon.data.forms.bad_conversation import BadConversation
from halcyon.data.forms.form import Form, named_form, of_first_row
from halcyon.data.sources import Access, SourceFile, pieces, read_pieces
from halcyon_api.spec.sources import DataSourceSpec


def form_of(source: DataSourceSpec, files: Sequence[SourceFile], access: Access) -> Form | None:
    """The form of a source of conversations; None: its rows are no conversations, or it has no rows.

    Raises:
        BadConfiguration: The files cannot be read, or the first row has no known form.
        DataUnreachable: A store does not answer, or denies access.
    """
    if source.format.conversation is None:
        return None
    if (named := named_form(source.format)) is not None:
        return named
    first = next((rows[0] for rows in read_pieces(pieces(source, files, access), access) if rows), None)
    if first is None:
        return None
    where = f"spec.data.sources[{source.name}].format.{source.format.kind}"
    if not isinstance(first.value, dict):
        raise bad_row(
            first, where, "has no fields: it is plain text", "use a source whose rows have fields, such as jsonl or csv"
        )
    try:
        return of_first_row(source.format, first.value)
    except BadConversation as bad:
        raise bad_row(first, where, str(bad), bad.fix) from None
