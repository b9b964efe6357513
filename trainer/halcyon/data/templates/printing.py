"""Compiles a chat template, and prints conversations with it.

What it prints has the marks of `halcyon.data.templates.message_text`.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from halcyon.data.templates.message_text import END, START, Marker, MessageText, of_message, printed

if TYPE_CHECKING:
    from jinja2.parser import Parser


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

    def print(self, messages: Sequence[Mapping[str, Any]], tools: Any, to_generate: bool, now: str) -> str:
        """The text of a conversation, with marks.

        Args:
            messages: Objects with ``role`` and ``content``.
            tools: The tools of the conversation.
            to_generate: Whether the template is to add the beginning of the assistant's turn.
            now: The time that the template prints, in ISO 8601.

        Raises:
            TemplateError, TypeError, ValueError, ...: Any error of the template, for messages that do not fit it.
        """
        self._now = dt.datetime.fromisoformat(now)
        return self._template.render(
            messages=of_message(messages, self._marker),
            tools=of_message(tools, self._marker),
            documents=None,
            add_generation_prompt=to_generate,
        )


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
        found = filter_(*(value.raw if isinstance(value, MessageText) else value for value in values), **named)
        return found if given is None else given.part(str(found))

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
