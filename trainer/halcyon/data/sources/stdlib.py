"""The Python standard library of the running interpreter, as files.

Its modules are the files whose path below the library consists of identifiers, which excludes installed packages and
build configuration. Its test suites are excluded too, because slim images delete them and a run should find the same
text there. The language reference is the text of ``help()``, from ``pydoc_data.topics``; that module is not taken a
second time as source.
"""

import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from halcyon.data.sources.access import SourceFile
from halcyon.data.sources.failures import Unreadable
from halcyon_api.spec.sources import StdlibSourceSpec

PREFIX = "stdlib:"
"""Prefix of the addresses of these files."""

_TEST_SUITES = frozenset({"test", "tests", "idle_test"})
_MACHINE_SPECIFIC = re.compile(r"_sysconfigdata|(site|user)customize\.py$")


def list_modules(spec: StdlibSourceSpec) -> tuple[SourceFile, ...]:
    """The files of the standard library. Their version is their SHA-256, because each machine has its own copy of the
    library.

    Raises:
        Unreadable: The interpreter lacks a requested part.
    """
    return tuple(SourceFile(uri, len(content), hashlib.sha256(content).hexdigest()) for uri, content in _contents(spec))


def read_module(file: SourceFile) -> bytes:
    """The content of one of these files.

    Raises:
        Unreadable: It differs from the listing.
    """
    part, _, name = file.uri.removeprefix(PREFIX).partition("/")
    content = documentation()[name].encode() if part == "documentation" else (_root() / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != file.version:
        raise Unreadable(f"{file.uri} differs from the file that was listed; use the same image for all processes")
    return content


def stdlib_modules(root: Path) -> list[str]:
    """Paths of the standard library's modules below ``root``, sorted, with slashes."""
    modules: list[str] = []
    for directory, directories, files in os.walk(root):
        directories[:] = [
            name for name in directories if name.isidentifier() and name not in _TEST_SUITES and name != "__pycache__"
        ]
        below = Path(directory).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        modules.extend(
            prefix + name
            for name in files
            if name.endswith(".py") and name[:-3].isidentifier() and not _MACHINE_SPECIFIC.match(name)
        )
    return sorted(module for module in modules if module != "pydoc_data/topics.py")


def _contents(spec: StdlibSourceSpec) -> Iterator[tuple[str, bytes]]:
    if "source" in spec.include:
        modules = stdlib_modules(_root())
        if not modules:
            raise Unreadable(f"no .py files below {_root()}; use an image with a full Python, or a text source")
        yield from ((f"{PREFIX}source/{module}", (_root() / module).read_bytes()) for module in modules)
    if "documentation" in spec.include:
        yield from (
            (f"{PREFIX}documentation/{topic}", text.encode()) for topic, text in sorted(documentation().items())
        )


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def documentation() -> dict[str, str]:
    """The language reference by topic.

    Raises:
        Unreadable: The interpreter lacks it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise Unreadable("this Python has no pydoc_data.topics; leave `documentation` out of include") from None
    return topics
