"""Data sets of the Hugging Face hub by name, if `datasets` is installed.

`datasets` prepares such a data set in its own cache, on the host that builds the token cache. From there the parent
sends Arrow tables to the workers, so the workers need neither the library nor the prepared files.
"""

from collections.abc import Generator
from functools import lru_cache
from typing import Any

from halcyon.data.sources.access import SourceFile
from halcyon.data.sources.failures import Replaced, Unreadable, reason, unreadable
from halcyon.data.sources.fields import existing_columns
from halcyon.data.sources.parquet import table_parts
from halcyon.data.sources.piece import FilePart, Wanted
from halcyon_api.spec.sources import FormatSpec, HuggingFaceSourceSpec


def list_dataset(spec: HuggingFaceSourceSpec) -> tuple[SourceFile, ...]:
    """A data set by name, prepared by `datasets`, as one file.

    Raises:
        Unreadable: `datasets` is not installed, or cannot load the data set.
    """
    dataset = _load(spec.dataset, spec.config, spec.split, spec.revision)
    parts = (spec.dataset, spec.config, spec.split)
    uri = f"hugging-face:{'/'.join(part for part in parts if part)}{f'@{spec.revision}' if spec.revision else ''}"
    return (SourceFile(uri, dataset.data.nbytes, _version(dataset)),)


def cut(
    file: SourceFile, wanted: Wanted, *, spec: HuggingFaceSourceSpec, form: FormatSpec, target_bytes: int
) -> Generator[FilePart, None, int]:
    """The wanted parts of a data set by name; returns its number of rows.

    Raises:
        Unreadable: It lacks a column, or differs from the listing.
    """
    dataset = _load(spec.dataset, spec.config, spec.split, spec.revision)
    if _version(dataset) != file.version:
        raise Replaced(f"{file.uri} changed after it was listed; set its revision")
    fields = existing_columns(form, file.uri, dataset.column_names)
    rows = len(dataset)
    kept = dataset.select_columns(list(fields)).with_format("arrow")
    batch_rows = max(1, int(target_bytes / max(kept.data.nbytes / max(rows, 1), 1)))
    begin = wanted.within(0, rows)[0] // batch_rows * batch_rows
    tables = (kept[start : start + batch_rows] for start in range(begin, rows, batch_rows))
    yield from table_parts(tables, wanted.after(begin), begin)
    return rows


@lru_cache(maxsize=4)
def _load(name: str, config: str | None, split: str, revision: str | None) -> Any:
    try:
        import datasets  # pyright: ignore[reportMissingImports] - optional
    except ImportError:
        raise Unreadable(
            "the package datasets is not installed: `pip install datasets` (for a cluster, in the image); or name the "
            f"files of the data set in a parquet or jsonl source, such as hf://datasets/{name}/"
        ) from None
    try:
        return datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # the loaders of many formats may raise anything
        what = f"datasets cannot load {name}: {reason(error)}; check dataset, config, split and revision"
        raise unreadable(what, _first_cause(error)) from None


def _first_cause(error: BaseException) -> BaseException:
    """The first error in the chain that led to one, because a loader reports "not found" even when the hub did not
    answer.
    """
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def _version(dataset: Any) -> str:
    return str(dataset._fingerprint)
