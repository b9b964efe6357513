"""Jinja as chat templates use it: compiles a chat template, and prints conversations with it.

A process of its own imports this module (`halcyon.host.limits.apart`), so it imports nothing but Jinja.

A template may look into a message (``'</think>' in content``), cut it and strip it, so it must see the text as it is.
But where it prints the text, a special token that the text spells must stay a word. So a string of a message is a
`MessageText`: operations see its letters, pieces of it are `MessageText` again, and ``str()`` of it, which is what a
template prints, has a mark inside each special token that it spells. Its end is marked too if it is the beginning of a
special token, because the next string may hold the rest.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from jinja2.parser import Parser

START, END, ESCAPE = "\ufdd0", "\ufdd1", "\ufdd2"
"""Noncharacters, which Unicode reserves for internal use: the bounds of what the assistant says, and the mark inside a
word.
"""
_CODES = {START: "0", END: "1", ESCAPE: "2"}
_MEANINGS = {code: sign for sign, code in _CODES.items()}
_MARKED = re.compile(f"{ESCAPE}(.)|[{START}{END}]", re.DOTALL)
_BREAK = "-"


class Marker:
    """Puts marks into texts that spell special tokens.

    Args:
        spellings: The special tokens.
    """

    def __init__(self, spellings: Iterable[str]) -> None:
        names = sorted(filter(None, spellings), key=len, reverse=True)
        self._pattern = re.compile("|".join((f"[{START}{END}{ESCAPE}]", *map(re.escape, names))))
        self._beginnings = {name[:length] for name in names for length in range(1, len(name))}
        self._longest = max(map(len, self._beginnings), default=0)

    def needs_marks(self, text: str) -> bool:
        """Whether a text spells a special token, or ends with the beginning of one."""
        return self._pattern.search(text) is not None or bool(self._beginning(text))

    def marked(self, text: str) -> str:
        """The text with its marks."""
        tail = self._beginning(text)
        head = text[: len(text) - len(tail)]
        return self._pattern.sub(_broken, head) + (f"{tail[0]}{ESCAPE}{_BREAK}{tail[1:]}" if tail else "")

    def _beginning(self, text: str) -> str:
        """The longest end of a text that is the beginning of a special token; empty if there is none."""
        for length in range(min(self._longest, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                return text[-length:]
        return ""


def unmarked(text: str) -> tuple[str, list[tuple[int, int]], list[int]]:
    """A printed text without its marks, the ranges between START and END, and the places of breaks inside words."""
    parts: list[str] = []
    ranges: list[tuple[int, int]] = []
    breaks: list[int] = []
    length = before = 0
    began: int | None = None
    for match in _MARKED.finditer(text):
        parts.append(text[before : match.start()])
        length += match.start() - before
        before = match.end()
        sign = match[0]
        if sign == START:
            began = length if began is None else began
        elif sign == END:
            if began is not None and began < length:
                ranges.append((began, length))
            began = None
        elif match[1] == _BREAK:
            breaks.append(length)
        elif match[1] in _MEANINGS:
            parts.append(_MEANINGS[match[1]])
            length += 1
    parts.append(text[before:])
    if began is not None and began < length + len(parts[-1]):
        ranges.append((began, length + len(parts[-1])))
    return "".join(parts), ranges, breaks


def _broken(match: re.Match[str]) -> str:
    text = match[0]
    return ESCAPE + _CODES[text] if text in _CODES else f"{text[0]}{ESCAPE}{_BREAK}{text[1:]}"


class MessageText(str):
    """A string of a message. See the module."""

    __slots__ = ("_marker",)
    _marker: Marker

    def __new__(cls, text: str, marker: Marker) -> MessageText:
        """A string that `marker` marks where it is printed."""
        made = super().__new__(cls, text)
        made._marker = marker
        return made

    @property
    def raw(self) -> str:
        """The letters, as a plain string."""
        return "".join((str.__str__(self),))

    def __str__(self) -> str:
        return self._marker.marked(str.__str__(self))

    def __repr__(self) -> str:
        return self._marker.marked(repr(self.raw))

    def __format__(self, spec: str) -> str:
        return self._marker.marked(format(self.raw, spec))

    def __reduce__(self) -> Any:
        raise TypeError("a text of a message stays in its template")

    # What joins it with other text prints it.

    def __add__(self, other: str) -> str:
        return str(self) + str(other)

    def __radd__(self, other: str) -> str:
        return str(other) + str(self)

    def __mul__(self, count: SupportsIndex) -> str:
        return str(self) * count

    __rmul__ = __mul__  # pyright: ignore[reportAssignmentType]

    def __mod__(self, values: Any) -> str:
        return str(self) % printed(values)

    def join(self, values: Iterable[str]) -> str:
        """The values, printed, with this text between them."""
        return str(self).join(printed(list(values)))

    def format(self, *values: Any, **named: Any) -> str:
        """The text with printed values in its fields."""
        return str(self).format(*printed(values), **printed(named))

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> str:
        """Other letters in place of some. Those that the template gives are no letters of the message."""
        parts = str.split(self, old, count) if old else [str.__str__(self)]
        return str(new).join(self._marker.marked(part) for part in parts) if len(parts) > 1 else self

    # Parts of it are texts of the message.

    def __getitem__(self, key: Any) -> MessageText:
        return self.part(str.__getitem__(self, key))

    def __iter__(self) -> Iterator[str]:
        return iter([self.part(letter) for letter in str.__iter__(self)])

    def part(self, text: str) -> MessageText:
        """Another text of the same message."""
        return MessageText(text, self._marker)


def _of_part(name: str) -> Any:
    method = getattr(str, name)

    def part(self: MessageText, *values: Any, **named: Any) -> Any:
        result = method(self, *values, **named)
        if isinstance(result, str):
            return MessageText(str.__str__(result), self._marker)
        return type(result)(MessageText(str.__str__(piece), self._marker) for piece in result)

    part.__name__ = name
    return part


for _name in (
    "strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "partition", "rpartition", "removeprefix",
    "removesuffix",
    "lower", "upper", "title", "capitalize", "casefold", "swapcase", "expandtabs", "center", "ljust", "rjust", "zfill",
    "translate",
):  # fmt: skip
    setattr(MessageText, _name, _of_part(_name))


def of_message(value: Any, marker: Marker) -> Any:
    """A message, with `MessageText` in place of each string that needs marks; keys too."""
    if isinstance(value, str):
        return MessageText(value, marker) if marker.needs_marks(value) else value
    if isinstance(value, Mapping):
        return {of_message(key, marker): of_message(item, marker) for key, item in value.items()}
    return [of_message(item, marker) for item in value] if isinstance(value, list | tuple) else value


def printed(value: Any) -> Any:
    """A value with each `MessageText` in it as it is printed."""
    if isinstance(value, MessageText):
        return str(value)
    if isinstance(value, Mapping):
        return {printed(key): printed(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(printed, value))
    return [printed(item) for item in value] if isinstance(value, list) else value


class Printer:
    """A compiled template.

    Args:
        source: The template.
        names: Texts that it knows by name.
        special: The special tokens. A message that spells one is marked.

    Raises:
        ValueError: It is not valid Jinja. The message says where and why.
    """

    def __init__(self, source: str, names: Mapping[str, str], special: Iterable[str]) -> None:
        self._marker = Marker(special)
        self._now = dt.datetime.min
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        environment.filters["tojson"] = functools.partial(_to_json, self._marker)
        environment.globals.update(names, raise_exception=_refuse, strftime_now=lambda form: self._now.strftime(form))
        try:
            self._template = environment.from_string(source)
            self._parsed = environment.parse(source)
        except TemplateSyntaxError as error:
            raise ValueError(f"line {error.lineno} is not valid Jinja: {error.message}") from None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None

    def contents(self) -> tuple[bool, list[str]]:
        """Whether the template says itself what the assistant says, and the names of all variables and functions in
        it.
        """
        marks = any(data.data == START for data in self._parsed.find_all(nodes.TemplateData))
        return marks, sorted({found.name for found in self._parsed.find_all(nodes.Name)})

    def print(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Any,
        to_generate: bool,
        variables: Mapping[str, Any],
        now: str,
    ) -> str:
        """The text of a conversation, with marks.

        Args:
            messages: Objects with ``role`` and ``content``.
            tools: The tools of the conversation.
            to_generate: Whether the template is to add the beginning of the assistant's turn.
            variables: Further variables of the template; they cannot replace the others.
            now: The time that the template prints, in ISO 8601.

        Raises:
            TemplateError, TypeError, ValueError, ...: Any error of the template, for messages that do not fit it.
        """
        self._now = dt.datetime.fromisoformat(now)
        given = {"documents": None} | dict(variables) | {"messages": messages, "tools": tools}
        return self._template.render(of_message(given, self._marker), add_generation_prompt=to_generate)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with `MessageText` for what would take its letters and lose what they are."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("title", "wordwrap"):
            self.filters[name] = _of_letters(self.filters[name])

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and not isinstance(owner, MessageText) and __obj.__name__ in ("join", "replace"):
            args = printed(tuple(list(value) if hasattr(value, "__next__") else value for value in args))
        return super().call(__context, __obj, *args, **kwargs)


def _of_letters(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that makes a text of the message from one."""

    @functools.wraps(filter_)  # the attributes tell jinja which arguments the filter wants
    def called(*values: Any, **named: Any) -> Any:
        given = next((value for value in values if isinstance(value, MessageText)), None)
        result = filter_(*(value.raw if isinstance(value, MessageText) else value for value in values), **named)
        return result if given is None else given.part(str(result))

    return called


class _Generation(Extension):
    """``{% generation %}``: puts marks around its body.

    As in transformers, what the body sets is known to the body alone.
    """

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return [_mark(START, line), nodes.Scope(body, lineno=line), _mark(END, line)]


def _mark(sign: str, line: int) -> nodes.Output:
    return nodes.Output([nodes.TemplateData(sign)], lineno=line)


def _to_json(
    marker: Marker,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """The ``tojson`` filter that Hugging Face's templates expect: it does not escape for HTML."""
    return marker.marked(
        json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    )


def _refuse(message: str) -> None:
    raise TemplateError(message)
