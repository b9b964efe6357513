"""The command ``halcyon tokenizer``: train a tokenizer, and compare the compression of tokenizers."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halcyon.commands.errors import console as new_console
from halcyon.commands.errors import report_errors
from halcyon.errors import BadConfiguration
from halcyon_api.plain_files import read_text

if TYPE_CHECKING:
    from halcyon.tokenizer import TokenizerDefinition
    from halcyon_api.spec.sources import DataSourceSpec
    from halcyon_api.spec.tokenizer import TokenizerSpec

app = typer.Typer(help="Train tokenizers, and compare their compression.", no_args_is_help=True)


@app.command()
def train(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Files, directories or globs: jsonl, json, csv, tsv (plain, gz, zst), parquet, text; `stdlib`: "
            "Python's standard library.",
            metavar="PATHS...",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The tokenizer.json to write.")] = Path(
        "tokenizer.json"
    ),
    vocab_size: Annotated[
        int, typer.Option(min=267, help="Number of tokens, including bytes and special tokens.")
    ] = 32_768,
    field: Annotated[
        str, typer.Option(help="Field of a row that holds the text, of all files but plain text.")
    ] = "text",
    sample_bytes: Annotated[
        int, typer.Option(min=1, help="Train on the first texts, up to about this number of bytes.")
    ] = 2_000_000_000,
    special_token: Annotated[
        list[str] | None, typer.Option(help="A special token beside Halcyon's own; may be repeated.")
    ] = None,
) -> None:
    """Train a byte-level BPE tokenizer and write it as a tokenizer.json."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    from halcyon.tokenizer.bpe import train_bpe

    with report_errors():
        sources = sources_of(paths, field)
        console = Console(stderr=True)
        with Progress(
            TextColumn("reading"), BarColumn(), DownloadColumn(), TimeElapsedColumn(), console=console, transient=True
        ) as progress:
            task = progress.add_task("reading", total=None)
            texts = _watched(
                take_bytes(read_texts(sources, field), sample_bytes), lambda size: progress.advance(task, size)
            )
            definition = train_bpe(texts, vocab_size, special_token or ())
        _write(output, definition.content)
        _show({output.name: definition}, {})
    sys.stdout.write(f"{output}: fingerprint {definition.fingerprint}\n")


@app.command("eval")
def evaluate(
    tokenizers: Annotated[
        list[str],
        typer.Argument(
            help="`byte`, a tokenizer.json (or its directory or hf:// repository), a SentencePiece .model, or an "
            "encoding of tiktoken.",
            metavar="TOKENIZER...",
        ),
    ],
    text: Annotated[
        list[Path] | None, typer.Option(help="Compare on these files instead of the built-in samples.")
    ] = None,
) -> None:
    """Show the bytes per token of tokenizers, and for comparison of GPT-2's and cl100k's if tiktoken has them on this
    machine.
    """
    with report_errors():
        definitions = {name: definition_of(name) for name in tokenizers}
        _show(definitions, {path.name: _read_text(path) for path in text or []})


def definition_of(name: str) -> TokenizerDefinition:
    """The definition of a tokenizer that the command line names.

    Raises:
        BadConfiguration: There is no such tokenizer.
    """
    from halcyon.data.fetch import fetch_file
    from halcyon.data.sources import Access
    from halcyon.tokenizer.resolve import resolve
    from halcyon.tokenizer.tiktoken_encodings import ENCODINGS
    from halcyon_api.spec.tokenizer import (
        ByteTokenizerSpec,
        SentencePieceSpec,
        TiktokenSpec,
        TokenizerJsonSpec,
        TokenizerSpec,
    )

    if name == "byte":
        spec = TokenizerSpec(byte=ByteTokenizerSpec())
    elif name in ENCODINGS:
        spec = TokenizerSpec(tiktoken=TiktokenSpec.model_validate({"encoding": name}))
    elif name.endswith(".model"):
        spec = _checked(name, lambda: TokenizerSpec(sentence_piece=SentencePieceSpec(path=name)))
    else:
        spec = _checked(name, lambda: TokenizerSpec(tokenizer_json=TokenizerJsonSpec(path=name)))
    return resolve(spec, lambda uri: fetch_file(uri, Access()))


def _checked(name: str, make: Callable[[], TokenizerSpec]) -> TokenizerSpec:
    from pydantic import ValidationError

    try:
        return make()
    except ValidationError:
        raise BadConfiguration(
            f"{name[:100]!r} is no tokenizer; give byte, the path of a file, or an encoding of tiktoken"
        ) from None


def sources_of(paths: Sequence[str], field: str) -> list[DataSourceSpec]:
    """One source for each path, in order. The ending of the path decides the kind of the source.

    Raises:
        BadConfiguration: A path or the name of the field is not valid.
    """
    from pydantic import ValidationError

    from halcyon.data.source_kinds import kind_of_path
    from halcyon_api.spec.sources import DataSourceSpec, FormatSpec, StdlibSourceSpec, TextFormatSpec

    def kind_of(path: str) -> dict[str, object]:
        if path == "stdlib":
            return {"stdlib": StdlibSourceSpec()}
        return {kind_of_path(path) or "text": {"paths": [path]}}

    try:
        text = FormatSpec(text=TextFormatSpec(field=field))
    except ValidationError:
        raise BadConfiguration("--field: give the name of a field, of at most 128 characters") from None
    sources: list[DataSourceSpec] = []
    for index, path in enumerate(paths):
        try:
            sources.append(DataSourceSpec.model_validate({"name": f"path-{index}", "format": text, **kind_of(path)}))
        except ValidationError:
            raise BadConfiguration(f"{path[:100]!r} is no path; give a file, a directory or a glob") from None
    return sources


def read_texts(sources: Iterable[DataSourceSpec], field: str) -> Iterator[str]:
    """The texts of sources, in order.

    Raises:
        BadConfiguration: A file cannot be read, or a row has no text.
    """
    from halcyon.data.sources import Access, list_files, pieces, read_pieces

    access = Access()
    for source in sources:
        for rows in read_pieces(pieces(source, list_files(source, access), access), access):
            for row in rows:
                value = row.value.get(field) if isinstance(row.value, dict) else row.value
                where = f"{row.file}: row {row.number}"
                if isinstance(value, bytes):
                    try:
                        value = value.decode()
                    except UnicodeDecodeError as error:
                        raise BadConfiguration(
                            f"{where} is not UTF-8 (byte {error.start}); convert it or leave it out"
                        ) from None
                if not isinstance(value, str):
                    raise BadConfiguration(f"{where} has no text in the field {field!r}; name another with --field")
                yield value


def take_bytes(texts: Iterable[str], limit: int) -> Iterator[str]:
    """Texts up to a number of bytes. The text that reaches the limit is the last one, and is not cut."""
    for text in texts:
        yield text
        limit -= len(text.encode())
        if limit <= 0:
            return


def _watched(texts: Iterable[str], advance: Callable[[int], None]) -> Iterator[str]:
    for text in texts:
        advance(len(text.encode()))
        yield text


def _show(definitions: dict[str, TokenizerDefinition], texts: dict[str, str]) -> None:

    from halcyon.commands.views.tokenizers import SAMPLES, compression_table
    from halcyon.tokenizer import load
    from halcyon.tokenizer.resolve import cached_encoding

    shown = dict(definitions)
    for name in ("gpt2", "cl100k_base"):
        kept = cached_encoding(name)
        if kept is not None and name not in shown:
            shown[name] = kept
    new_console().print(
        compression_table({name: load(definition) for name, definition in shown.items()}, texts or SAMPLES)
    )


def _read_text(path: Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise BadConfiguration(f"{path}: it cannot be read ({error.strerror}); give a file of text") from None
    except UnicodeDecodeError as error:
        raise BadConfiguration(f"{path}: it is not UTF-8 (byte {error.start}); convert it") from None


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise BadConfiguration(f"{path}: it cannot be written ({error.strerror}); choose another --output") from None
