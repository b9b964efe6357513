"""The kind of source that fits a file, by the ending of its name."""

from collections.abc import Collection

from halcyon_api.spec.data import DataSpec
from halcyon_api.spec.sources import DataSourceSpec


def _packed(*endings: str) -> tuple[str, ...]:
    return tuple(ending + packed for ending in endings for packed in ("", ".gz", ".zst"))


ENDINGS = {
    "jsonl": _packed(".jsonl", ".ndjson"),
    "csv": _packed(".csv"),
    "tsv": _packed(".tsv"),
    "parquet": (".parquet",),
}
"""Endings of the files that are taken from a directory. The path of a file or a glob may have any ending."""


def kind_of_path(path: str) -> str | None:
    """The kind of source for a file or a glob; None: its ending is that of no table of rows, so it is text."""
    of_files = ENDINGS | {"jsonl": (*ENDINGS["jsonl"], *_packed(".json"))}
    return next((kind for kind, endings in of_files.items() if path.lower().endswith(endings)), None)


def text_warning(source: DataSourceSpec, files: Collection[str] = ()) -> str | None:
    """A warning about a source of plain text whose files have rows.

    Args:
        source: The source.
        files: Its files, if they are listed. If all have the same ending, the source is warned of too: a folder of CSV
            files.

    Returns:
        One sentence with the kind that fits; None: there is nothing to warn of.
    """
    if source.text is None:
        return None
    of_files = {kind_of_path(file) for file in files}
    named = [(path, kind_of_path(path)) for path in source.paths]
    named += [(source.paths[0], kind) for kind in of_files if len(of_files) == 1]
    path, kind = next((one for one in named if one[1] is not None), ("", None))
    return kind and (
        f"spec.data.sources[{source.name}].text: {path} looks like a file of rows, and text takes a whole file, with "
        f"all its marks, as one document; write {kind}: {{paths: …}} to read its rows"
    )


def text_warnings(data: DataSpec) -> tuple[str, ...]:
    """`text_warning` of all sources, by the names in the document alone."""
    return tuple(warning for source in data.sources if (warning := text_warning(source)) is not None)
