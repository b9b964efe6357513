"""The documents of a source, in an order that depends on nothing but their names.

``stdlib`` is the Python standard library of the running interpreter. Its modules are the files whose path below the library consists of
identifiers, so that neither installed packages nor build configuration count, and its own test suites are left out: slim images delete
them, and a run should find the same text there. The language reference is what ``help()`` shows, from ``pydoc_data.topics``; that module
is not taken a second time as source.

``text`` is files, directories and globs; one file is one document. Files are bytes: nothing is decoded, so nothing can fail to decode.
"""

from __future__ import annotations

import glob
import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from halcyon.errors import BadConfiguration
from halcyon_api.spec.sources import DataSourceSpec, StdlibSourceSpec, TextSourceSpec

_TEST_SUITES = frozenset({"test", "tests", "idle_test"})
_MACHINE_SPECIFIC = re.compile(r"_sysconfigdata|(site|user)customize\.py$")


@dataclass(frozen=True)
class Document:
    """One text, by name."""

    name: str
    content: bytes


def read_documents(source: DataSourceSpec) -> Iterator[Document]:
    """The documents of a source that are not empty, in order.

    Raises:
        BadConfiguration: There is nothing to read, or it cannot be read. The sentence names the field.
    """
    if source.stdlib is not None:
        documents = _read_stdlib(source.name, source.stdlib)
    elif source.text is not None:
        documents = _read_text(source.name, source.text)
    else:
        raise TypeError(f"no reader for a data source of kind {source.kind}")
    return (document for document in documents if document.content)


def stdlib_modules(root: Path) -> list[str]:
    """Paths of the standard library's modules below ``root``, sorted, with slashes."""
    found: list[str] = []
    for directory, directories, files in os.walk(root):
        directories[:] = [name for name in directories if name.isidentifier() and name not in _TEST_SUITES and name != "__pycache__"]
        below = Path(directory).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        found.extend(
            prefix + name
            for name in files
            if name.endswith(".py")
            and name[:-3].isidentifier()
            and not _MACHINE_SPECIFIC.match(name)
            and prefix + name != "pydoc_data/topics.py"
        )
    return sorted(module for module in found if module != "pydoc_data/topics.py")


def _read_stdlib(name: str, spec: StdlibSourceSpec) -> Iterator[Document]:
    if "source" in spec.include:
        root = Path(sysconfig.get_path("stdlib"))
        modules = stdlib_modules(root)
        if not modules:
            raise BadConfiguration(
                f"spec.data.sources[{name}].stdlib: no .py files below {root}; use an image with a full Python, or take a text source"
            )
        for module in modules:
            yield Document(f"source/{module}", (root / module).read_bytes())
    if "documentation" in spec.include:
        try:
            from pydoc_data.topics import topics
        except ImportError:
            raise BadConfiguration(
                f"spec.data.sources[{name}].stdlib.include: this Python has no pydoc_data.topics; leave `documentation` out"
            ) from None
        for topic, text in sorted(topics.items()):
            yield Document(f"documentation/{topic}", text.encode())


def _read_text(name: str, spec: TextSourceSpec) -> Iterator[Document]:
    seen: set[Path] = set()
    for index, pattern in enumerate(spec.paths):
        field = f"spec.data.sources[{name}].text.paths[{index}]"
        try:
            files = _matching_files(pattern)
        except OSError as error:
            raise BadConfiguration(f"{field}: {error.filename} cannot be listed: {error.strerror}; make it readable") from None
        if not files:
            raise BadConfiguration(f"{field}: no file matches {pattern}; give a file, a directory or a glob that the trainer can see")
        for file in files:
            if file in seen:
                continue
            seen.add(file)
            try:
                content = file.read_bytes()
            except OSError as error:
                raise BadConfiguration(f"{field}: {file} cannot be read: {error.strerror}; make it readable or exclude it") from None
            yield Document(str(file), content)


def _matching_files(pattern: str) -> list[Path]:
    """Files that a pattern means, in the order of their paths' parts. A name that exists is taken literally, whatever its signs."""
    literal = Path(pattern)
    matches = [literal] if literal.exists() else [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - absolute patterns too
    files: set[Path] = set()
    for match in matches:
        if match.is_dir():
            files.update(_files_below(match))
        elif match.is_file():
            files.add(match)
    return sorted(files, key=lambda file: file.parts)


def _files_below(directory: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(directory, onerror=refuse):
        yield from (path for name in names if (path := Path(parent, name)).is_file())
