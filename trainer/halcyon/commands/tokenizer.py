"""The command ``halcyon tokenizer``: train a tokenizer, and show how it compresses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from halcyon.commands.errors import console as new_console
from halcyon.commands.errors import report_errors
from halcyon.commands.options import AtLeast1, Commands
from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.files import write_file
from halcyon_api.spec.sources import DataSourceSpec, FormatSpec, TextFormatSpec

if TYPE_CHECKING:
    from halcyon.tokenizer import TokenizerDefinition

app = Commands("Train tokenizers.")


@app.command()
def train(
    paths: list[str],
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("tokenizer.json"),
    vocab_size: Annotated[int, typer.Option(min=267)] = 32_768,
    field: str = "text",
    sample_bytes: AtLeast1 = 2_000_000_000,
    special_token: list[str] | None = None,
) -> None:
    """Train a byte-level BPE tokenizer and write it as a tokenizer.json.

    Args:
        paths (PATHS...): Files, directories or globs: jsonl, json, csv, tsv (plain, gz, zst), parquet, text; `stdlib`:
            Python's standard library.
        output: The tokenizer.json to write.
        vocab_size: Number of tokens, including bytes and special tokens.
        field: Field of a row that holds the text, of all files but plain text.
        sample_bytes: Train on the first texts, up to about this number of bytes.
        special_token: A special token beside Halcyon's own; may be repeated.
    """
    from halcyon.tokenizer.bpe import train_bpe

    with report_errors():
        if output.is_dir() or not next(one for one in output.absolute().parents if one.exists()).is_dir():
            raise BadConfiguration(f"{output}: it cannot be written; give a file in a folder, with --output")
        sources = sources_of(paths, field)
        console = Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} {task.fields[unit]}")
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
            task = progress.add_task("reading", total=None, unit="bytes")

            def read(size: int) -> None:
                if not console.is_terminal and not progress.tasks[task].completed:
                    sys.stderr.write("reading the texts\n")
                progress.advance(task, size)

            def merged(done: int, total: int) -> None:
                progress.update(task, description="merging", completed=done, total=total, unit="merges")
                if not console.is_terminal and 10 * done // total > 10 * (done - 1) // total:
                    sys.stderr.write(f"{done:,} of at most {total:,} merges\n")

            texts = take_bytes(read_texts(sources, field), sample_bytes, read)
            definition = train_bpe(texts, vocab_size, special_token or (), merged)
        try:
            write_file(output, [definition.content])
        except OSError as error:
            raise BadConfiguration(
                f"{output}: it cannot be written ({error.strerror}); choose another --output"
            ) from None
        _show(output.name, definition)
    sys.stdout.write(f"{output}: fingerprint {definition.fingerprint}\n")


def sources_of(paths: Sequence[str], field: str) -> list[DataSourceSpec]:
    """One source for each path, in order. The ending of the path decides the kind of the source.

    Raises:
        BadConfiguration: A path or the name of the field is not valid.
    """
    from halcyon.data.source_kinds import kind_of_path

    try:
        text = FormatSpec(text=TextFormatSpec(field=field))
    except ValidationError:
        raise BadConfiguration("--field: give the name of a field, of at most 128 characters") from None
    sources: list[DataSourceSpec] = []
    for index, path in enumerate(paths):
        kind = {"stdlib": {}} if path == "stdlib" else {kind_of_path(path) or "text": {"paths": [path]}}
        try:
            sources.append(DataSourceSpec.model_validate({"name": f"path-{index}", "format": text, **kind}))
        except ValidationError:
            raise BadConfiguration(f"{path[:100]!r} is no path; give a file, a directory or a glob") from None
    return sources


def read_texts(sources: Iterable[DataSourceSpec], field: str) -> Iterator[str]:
    """The texts of sources, in order.

    Raises:
        BadConfiguration: A file cannot be read, or a row has no text.
    """
    from halcyon.data.sources import Access, list_files, pieces, read_pieces
    from halcyon.data.sources.text_check import no_text, not_utf8

    access = Access()
    for source in sources:
        for rows in read_pieces(pieces(source, list_files(source, access), access), access):
            for row in rows:
                value = row.value.get(field) if isinstance(row.value, dict) else row.value
                where = f"{row.file}: row {row.number}"
                if isinstance(value, bytes):
                    if wrong := no_text(value) or not_utf8(value):
                        raise BadConfiguration(f"{where} {wrong}")
                    value = value.decode()
                if not isinstance(value, str):
                    raise BadConfiguration(f"{where} has no text in the field {field!r}; name another with --field")
                yield value


def take_bytes(texts: Iterable[str], limit: int, advance: Callable[[int], None] = lambda _: None) -> Iterator[str]:
    """Texts up to a number of bytes, which `advance` is told of. The text that reaches the limit is the last one, and
    is not cut.
    """
    for text in texts:
        size = len(text.encode())
        advance(size)
        yield text
        limit -= size
        if limit <= 0:
            return


def _show(name: str, definition: TokenizerDefinition) -> None:
    from halcyon.commands.views.tokenizers import SAMPLES, compression_table
    from halcyon.tokenizer import load
    from halcyon.tokenizer.resolve import cached_encoding

    shown = {name: definition}
    for other in ("gpt2", "cl100k_base"):
        kept = cached_encoding(other)
        if kept is not None:
            shown[other] = kept
    tokenizers = {one: load(kept) for one, kept in shown.items()}
    new_console().print(compression_table(tokenizers, SAMPLES))
