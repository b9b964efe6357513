"""Lists the files of a source: the same files in the same order on every machine, each once, with a version that
changes with the content.

Paths keep their order in the document. The files of each path are sorted by the parts of their paths, independent of
the order in which a store or a file system lists them. A name that exists is taken literally, even with wildcards;
otherwise it is a glob. A directory means all files below it with the endings of the kind, without hidden ones. Web
servers cannot list files, so an ``https://`` address is one file.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from halcyon.data.source_kinds import ENDINGS
from halcyon.data.sources import named_dataset, stdlib
from halcyon.data.sources.access import Access, Address, SourceFile, parse_address
from halcyon.data.sources.failures import Unreadable, errors_at, reason, unreadable
from halcyon.data.sources.files import stat_file
from halcyon.data.sources.remote import list_prefix, look_up
from halcyon_api.counting import counted
from halcyon_api.spec.sources import DataSourceSpec

_WILD = re.compile(r"[*?\[]")
_SIGN = re.compile(r"\[(!?+.[^\]]*+)\]|.", re.DOTALL)
"""Several characters in brackets, of which the first may be a bracket, or one sign."""
_ANY_FOLDERS = r"(?:[^./][^/]*/)*"


def where_of(source: DataSourceSpec) -> str:
    """The field with which error messages about a source begin."""
    return f"spec.data.sources[{source.name}].{source.kind}"


class Listing(NamedTuple):
    """The files of a source, in the order of its rows, and the number of files and folders that are left out."""

    files: tuple[SourceFile, ...]
    hidden: int = 0
    """Hidden ones, in the folders that the document names."""
    excluded: int = 0
    """Those that `exclude` names."""
    others: int = 0
    """Files in these folders whose names have none of the endings of the kind."""


def list_files(source: DataSourceSpec, access: Access) -> tuple[SourceFile, ...]:
    """The files of a source; see `list_source`."""
    return list_source(source, access).files


def list_source(source: DataSourceSpec, access: Access) -> Listing:
    """List a source.

    Raises:
        BadConfiguration: There are no files, or they cannot be listed. The message names the field.
        DataUnreachable: A store does not answer, or denies access.
    """
    where = where_of(source)
    with errors_at(where):
        if source.stdlib is not None:
            return Listing(stdlib.list_modules(source.stdlib))
        if source.hugging_face is not None:
            return Listing(named_dataset.list_dataset(source.hugging_face))
    listed: dict[str, SourceFile] = {}
    choice = FileChoice(source.files.exclude if source.files is not None else ())
    for index, path in enumerate(source.paths):
        with errors_at(f"{where}.paths[{index}]"):
            before, others = len(choice.hidden) + len(choice.excluded), len(choice.others)
            matching = _matching(parse_address(path), ENDINGS.get(source.kind, ("",)), access, choice)
            files = sorted(matching, key=lambda file: file.uri.split("/"))
            if not files:
                left_out = len(choice.hidden) + len(choice.excluded) - before
                if others := len(choice.others) - others:
                    endings = " or ".join(ENDINGS[source.kind])
                    raise Unreadable(
                        f"{path} has no file that ends with {endings}, only {counted(others, 'other file')}; name "
                        "files with other endings by a glob, or take another kind of source"
                    )
                raise Unreadable(
                    f"{path} has only hidden or excluded files; give others, or exclude fewer"
                    if left_out
                    else f"no file matches {path}; give a file, a directory or a glob that the trainer can see"
                )
        for file in files:
            listed.setdefault(file.uri, file)
    return Listing(tuple(listed.values()), len(choice.hidden), len(choice.excluded), len(choice.others))


def named_files(source: DataSourceSpec) -> frozenset[str]:
    """The addresses of the files that a document names itself, and not by a folder or a glob."""
    addresses = map(parse_address, source.paths)
    return frozenset(str(Path(one.path)) if one.scheme == "file" else one.uri for one in addresses)


class FileChoice:
    """Chooses files by the parts of their paths, and counts what it leaves out.

    Args:
        exclude: Globs. One without a slash is compared with the name of a file or a folder at any depth. One with a
            slash is compared with its path, from the listed folder or from the beginning. All files below a folder that
            is left out are left out.
    """

    def __init__(self, exclude: Iterable[str]) -> None:
        self.hidden: set[str] = set()
        self.excluded: set[str] = set()
        self.others: set[str] = set()
        globs = [pattern.removesuffix("/") for pattern in exclude]
        self._names = [glob_to_regex(pattern) for pattern in globs if "/" not in pattern]
        self._paths = [glob_to_regex(pattern) for pattern in globs if "/" in pattern]

    def takes(self, folder: str, path: str, named: str = "") -> bool:
        """Whether a file or a folder is taken.

        Args:
            folder: The listed folder, with a slash at its end; may be empty.
            path: Path of the file or folder below it.
            named: The beginning of `path` that the document names, which may be hidden.
        """
        parts = path.split("/")
        for depth, name in enumerate(parts, start=1):
            below = "/".join(parts[:depth])
            if name.startswith(".") and len(below) > len(named):
                self.hidden.add(folder + below)
                return False
            if any(pattern.fullmatch(name) for pattern in self._names) or any(
                pattern.fullmatch(below) or pattern.fullmatch(folder + below) for pattern in self._paths
            ):
                self.excluded.add(folder + below)
                return False
        return True


def _matching(address: Address, endings: tuple[str, ...], access: Access, choice: FileChoice) -> Iterator[SourceFile]:
    if address.scheme == "file":
        yield from _matching_local(address.path, endings, choice)
    elif address.scheme == "https":
        if address.is_pattern:
            raise Unreadable(f"{address.uri} is a glob, but web servers cannot list files; name each file")
        if (file := look_up(address, access)) is not None:
            yield file
    else:
        yield from _matching_remote(address, endings, access, choice)


def _matching_remote(
    address: Address, endings: tuple[str, ...], access: Access, choice: FileChoice
) -> Iterator[SourceFile]:
    if address.path and (file := look_up(address, access)) is not None:
        yield file
        return
    folder = address.at(literal_prefix(address.path)) if address.is_pattern else address
    prefix = f"{folder.uri.removesuffix('/')}/"
    expression = glob_to_regex(address.path) if address.is_pattern else None
    for file in list_prefix(folder, access):
        if expression is not None and not expression.fullmatch(file.uri.removeprefix(address.prefix)):
            continue
        path = file.uri.removeprefix(prefix)
        if not choice.takes(prefix, path, named="" if expression is None else path):
            continue
        if expression is None and not file.uri.endswith(endings):
            choice.others.add(file.uri)
        else:
            yield file


def _matching_local(pattern: str, endings: tuple[str, ...], choice: FileChoice) -> Iterator[SourceFile]:
    literal = Path(pattern)
    try:
        if literal.is_file():
            yield stat_file(str(literal))
            return
        is_literal = literal.exists()
        matches = [literal] if is_literal else [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - absolute patterns too
        folder = literal if is_literal else Path(literal_prefix(pattern) or ".")
        for match in matches:
            named = "" if match == folder else os.path.relpath(match, folder)
            prefix = f"{folder}/"
            if named and not choice.takes(prefix, named, named):
                continue
            if match.is_dir():
                yield from (stat_file(str(file)) for file in _files_below(match, prefix, named, endings, choice))
            elif match.is_file():
                yield stat_file(str(match))
    except OSError as error:
        raise unreadable(f"{error.filename} cannot be listed: {reason(error)}; make it readable", error) from None


def _files_below(
    directory: Path, folder: str, named: str, endings: tuple[str, ...], choice: FileChoice
) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(directory, onerror=refuse):
        parts = *Path(named).parts, *Path(parent).relative_to(directory).parts
        below = "".join(f"{part}/" for part in parts)
        folders[:] = [name for name in folders if choice.takes(folder, below + name, named)]
        for name in names:
            path = Path(parent, name)
            if not choice.takes(folder, below + name, named) or not path.is_file():
                continue
            if name.endswith(endings):
                yield path
            else:
                choice.others.add(str(path))


def glob_to_regex(pattern: str) -> re.Pattern[str]:
    """A regular expression that matches the same full names, with slashes, as the glob.

    The rules are those of the shell and of `glob.glob`: `*` and `?` within a part, `**` for any number of parts,
    `[...]` for one of several characters; and a wildcard does not match a part that begins with a dot.
    """
    *folders, name = pattern.split("/")
    above = "".join(_ANY_FOLDERS if folder == "**" else f"{_part(folder)}/" for folder in folders)
    return re.compile(above + (rf"{_ANY_FOLDERS}[^./][^/]*" if name == "**" else _part(name)), re.DOTALL)


def literal_prefix(pattern: str) -> str:
    """The parts before the first part with a wildcard: the prefix that a store lists. It has no final slash."""
    return "/".join(takewhile(lambda part: not _WILD.search(part), pattern.split("/")))


def _part(part: str) -> str:
    return (r"(?!\.)" if part[:1] in ("*", "?", "[") else "") + _SIGN.sub(_expression, part)


def _expression(sign: re.Match[str]) -> str:
    if sign[1] is None:
        return {"*": "[^/]*", "?": "[^/]"}.get(sign[0]) or re.escape(sign[0])
    body = sign[1].replace("\\", r"\\").replace("[", r"\[")
    return f"[^/{body[1:]}]" if body.startswith("!") else "[" + re.sub(r"^\^", r"\\^", body) + "]"
