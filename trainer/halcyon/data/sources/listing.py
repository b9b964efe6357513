"""Lists the files of a source: the same files in the same order on every machine, each once, with a version that
changes with the content.

Paths keep their order in the document. The files of each path are sorted by the parts of their paths, independent of
the order in which a store or a file system lists them. A name that exists is taken literally, even with wildcards;
otherwise it is a glob. A directory means all files below it with the endings of the kind. Web servers cannot list
files, so an ``https://`` address is one file.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from halcyon.data.source_kinds import ENDINGS
from halcyon.data.sources import named_dataset, stdlib
from halcyon.data.sources.access import Access, Address, SourceFile, parse_address
from halcyon.data.sources.failures import Unreadable, errors_at, reason, unreadable
from halcyon.data.sources.files import stat_file
from halcyon.data.sources.remote import list_prefix, look_up
from halcyon_api.spec.sources import DataSourceSpec

_WILD = re.compile(r"[*?\[]")


def where_of(source: DataSourceSpec) -> str:
    """The field with which error messages about a source begin."""
    return f"spec.data.sources[{source.name}].{source.kind}"


def list_files(source: DataSourceSpec, access: Access) -> tuple[SourceFile, ...]:
    """The files of a source, in the order of its rows.

    Raises:
        BadConfiguration: There are no files, or they cannot be listed. The message names the field.
        DataUnreachable: A store does not answer, or denies access.
    """
    where = where_of(source)
    with errors_at(where):
        if source.stdlib is not None:
            return stdlib.list_modules(source.stdlib)
        if source.hugging_face is not None:
            return named_dataset.list_dataset(source.hugging_face)
    listed: dict[str, SourceFile] = {}
    for index, path in enumerate(source.paths):
        with errors_at(f"{where}.paths[{index}]"):
            matching = _matching(parse_address(path), ENDINGS.get(source.kind, ("",)), access)
            files = sorted(matching, key=lambda file: file.uri.split("/"))
            if not files:
                raise Unreadable(f"no file matches {path}; give a file, a directory or a glob that the trainer can see")
        for file in files:
            listed.setdefault(file.uri, file)
    return tuple(listed.values())


def _matching(address: Address, endings: tuple[str, ...], access: Access) -> Iterator[SourceFile]:
    if address.scheme == "file":
        yield from _matching_local(address.path, endings)
    elif address.scheme == "https":
        if address.is_pattern:
            raise Unreadable(f"{address.uri} is a glob, but web servers cannot list files; name each file")
        if (file := look_up(address, access)) is not None:
            yield file
    else:
        yield from _matching_remote(address, endings, access)


def _matching_remote(address: Address, endings: tuple[str, ...], access: Access) -> Iterator[SourceFile]:
    if address.path and (file := look_up(address, access)) is not None:
        yield file
    elif address.is_pattern:
        expression = glob_to_regex(address.path)
        folder = address.at(literal_prefix(address.path))
        yield from (
            file for file in list_prefix(folder, access) if expression.fullmatch(file.uri.removeprefix(address.prefix))
        )
    else:
        yield from (file for file in list_prefix(address, access) if file.uri.endswith(endings))


def _matching_local(pattern: str, endings: tuple[str, ...]) -> Iterator[SourceFile]:
    literal = Path(pattern)
    try:
        matches = [literal] if literal.exists() else [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - absolute patterns too
        for match in matches:
            if match.is_dir():
                yield from (stat_file(str(file)) for file in _files_below(match) if file.name.endswith(endings))
            elif match.is_file():
                yield stat_file(str(match))
    except OSError as error:
        raise unreadable(f"{error.filename} cannot be listed: {reason(error)}; make it readable", error) from None


def _files_below(directory: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(directory, onerror=refuse):
        yield from (path for name in names if (path := Path(parent, name)).is_file())


def glob_to_regex(pattern: str) -> re.Pattern[str]:
    """A regular expression that matches the same full names, with slashes, as the glob.

    The rules are those of the shell and of `glob.glob`: `*` and `?` within a part, `**` for any number of parts,
    `[...]` for one of several characters; and a wildcard does not match a part that begins with a dot.
    """
    parts = pattern.split("/")
    out: list[str] = []
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            out.append(r"(?:[^./][^/]*/)*[^./][^/]*" if last else r"(?:[^./][^/]*/)*")
        else:
            out.append(_part(part) + ("" if last else "/"))
    return re.compile("".join(out), re.DOTALL)


def literal_prefix(pattern: str) -> str:
    """The parts before the first part with a wildcard: the prefix that a store lists. It has no final slash."""
    parts = pattern.split("/")
    count = next((index for index, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return "/".join(parts[:count])


def _part(part: str) -> str:
    out = r"(?!\.)" if part[:1] in ("*", "?", "[") else ""
    position = 0
    while position < len(part):
        sign = part[position]
        position += 1
        if sign == "*":
            out += "[^/]*"
        elif sign == "?":
            out += "[^/]"
        elif sign == "[" and (end := part.find("]", position + 1 + (part[position : position + 1] == "!"))) >= 0:
            body = part[position:end].replace("\\", r"\\").replace("[", r"\[")
            out += f"[^/{body[1:]}]" if body.startswith("!") else "[" + re.sub(r"^\^", r"\\^", body) + "]"
            position = end + 1
        else:
            out += re.escape(sign)
    return out
