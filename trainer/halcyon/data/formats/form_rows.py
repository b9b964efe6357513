"""Reads the conversations of rows in the form of their source, and says which row is wrong."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

from halcyon.data.formats.document import bad_row, fields_of
from halcyon.data.forms.form import BadConversation, Form, named_form, of_first_row
from halcyon.data.sources import Access, SourceFile, SourceRow, pieces, read_pieces
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.sources import DataSourceSpec, FormatSpec

_Read = TypeVar("_Read")


class FormRows:
    """Reads rows of one form.

    Args:
        spec: The format.
        form: The form of the source. Default: that of the document, or of the first row that is read.
        where: The format's field in the run document; error messages begin with it.
        parts: Fields of the format that name a part of the row, by the part; error messages about the part begin with
            them.
    """

    def __init__(self, spec: FormatSpec, form: Form | None, where: str, parts: Mapping[str, str]) -> None:
        self._spec = spec
        self._form = form or named_form(spec)
        self._where = where
        self._parts = parts

    def read(self, row: SourceRow, read: Callable[[Form, Mapping[str, Any]], _Read]) -> _Read:
        """What a function reads from the fields of a row.

        Raises:
            BadConfiguration: The row does not have the form of its source.
        """
        fields = fields_of(row, self._where_of(None))
        try:
            self._form = self._form or of_first_row(self._spec, fields)
            return read(self._form, fields)
        except BadConversation as bad:
            raise bad_row(row, self._where_of(bad.part), str(bad), bad.fix) from None

    def _where_of(self, part: str | None) -> str:
        """The field of the document that an error about a part of a row begins with."""
        form = self._form
        part = part or ("messages" if form is None or "messages" in form.fields else None)
        name = self._parts.get(part) if part is not None else None
        return f"{self._where}.{name}" if name else self._where


def form_of(source: DataSourceSpec, files: Sequence[SourceFile], access: Access) -> Form | None:
    """The form of a source of conversations; None: its rows are no conversations, or it has no rows.

    Raises:
        BadConfiguration: The files cannot be read, or the first row has no known form. If bad rows are skipped: no row
            has one.
        DataUnreachable: A store does not answer, or denies access.
    """
    if source.format.conversation is None:
        return None
    if (named := named_form(source.format)) is not None:
        return named
    where = f"spec.data.sources[{source.name}].format.{source.format.kind}"
    problem: BadConfiguration | None = None
    for row in chain.from_iterable(read_pieces(pieces(source, files, access), access)):
        try:
            return FormRows(source.format, None, where, {}).read(row, lambda form, _: form)
        except BadConfiguration as error:
            problem = problem or error
            if source.on_bad_row == "fail":
                break
    if problem is not None:
        raise problem
    return None
