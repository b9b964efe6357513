"""Globs for the names that a store lists: `*` and `?` within a part, `**` for any number of parts, `[...]` for one of
several characters.

The rules are those of the shell and of `glob.glob`: a wildcard does not match a part that begins with a dot.
"""

from __future__ import annotations

import re

_WILD = re.compile(r"[*?\[]")


def glob_to_regex(pattern: str) -> re.Pattern[str]:
    """A regular expression that matches the same full names, with slashes, as the glob."""
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
