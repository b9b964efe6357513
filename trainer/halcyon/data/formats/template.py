"""Chat templates: sandboxed Jinja renders messages to text with marks, and the marked text is cut into segments.

Three things must be distinguished in the output of a template: special tokens that the *template* spells; the same letters in the text of a
*message*; and the assistant's text (``{% generation %}``, as in Hugging Face's templates), which counts in the loss. Positions in the text
cannot distinguish them, because templates trim, join and repeat. So the text itself carries marks: three code points that Unicode reserves
for internal use (noncharacters). Generation blocks put START and END around their output. Before rendering, every string of a message is
escaped: ESCAPE is inserted after the first character of a spelt special token, and the three code points are escaped too. A string's end
that is the beginning of a special token is also escaped, because the next string may hold the rest. After rendering, text that still
spells a special token comes from the template. So no message can end a turn or take another role.

The text is cut at special tokens and at the bounds of generation blocks, and each segment is tokenized separately. At inference the prompt
and the model's output are tokenized separately too, so the model sees the same tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from halcyon.errors import BadConfiguration

if TYPE_CHECKING:
    from jinja2.parser import Parser

_START, _END, _ESCAPE = "\ufdd0", "\ufdd1", "\ufdd2"
_ESCAPED = re.compile(f"{_ESCAPE}(.)", re.DOTALL)
_CODES = {_START: "0", _END: "1", _ESCAPE: "2"}
_MEANINGS = {code: sign for sign, code in _CODES.items()} | {"-": ""}

DEFAULT_TEMPLATE = """\
{%- set pending = namespace(system='') -%}
{%- for message in messages -%}
  {%- if message['role'] == 'system' -%}
    {%- set pending.system = message['content'] + '\n\n' -%}
  {%- elif message['role'] == 'user' -%}
    {{- '<|user_start|>' + pending.system + message['content'] + '<|user_end|>' -}}
    {%- set pending.system = '' -%}
  {%- else -%}
    {{- '<|assistant_start|>' -}}
    {%- if message['content'] is string -%}
      {%- generation -%}{{- message['content'] -}}{%- endgeneration -%}
    {%- else -%}
      {%- for part in message['content'] -%}
        {%- if part['type'] == 'text' -%}
          {%- generation -%}{{- part['text'] -}}{%- endgeneration -%}
        {%- elif part['type'] == 'python' -%}
          {%- generation -%}{{- '<|python_start|>' + part['text'] + '<|python_end|>' -}}{%- endgeneration -%}
        {%- else -%}
          {{- '<|output_start|>' + part['text'] + '<|output_end|>' -}}
        {%- endif -%}
      {%- endfor -%}
    {%- endif -%}
    {%- generation -%}{{- '<|assistant_end|>' -}}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
"""
"""Halcyon's own template, the conversation of nanochat. The system message is joined to the first user message; the output of tools does
not count in the loss."""

_OWN_MARKS = re.compile(r"<\|[a-z_]+\|>")


class Segment(NamedTuple):
    """A part of a rendered conversation."""

    content: str | int
    """Text, or the id of a special token."""
    counts: bool
    """Whether the assistant generates it, so that it counts in the loss."""


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja template; None: `DEFAULT_TEMPLATE`.
        special_tokens: Id of each special token by its spelling.
        names: More variables for the template, such as ``bos_token``.
        where: The template's field in the run document.

    Raises:
        BadConfiguration: It is not valid Jinja, or the tokenizer lacks special tokens of Halcyon's own template.
    """

    def __init__(self, source: str | None, special_tokens: Mapping[str, int], names: Mapping[str, str], where: str) -> None:
        self.is_own = source is None
        self._special = dict(special_tokens)
        spellings = "|".join(re.escape(spelling) for spelling in sorted(self._special, key=len, reverse=True) if spelling)
        self._to_escape = re.compile(f"[{_START}{_END}{_ESCAPE}]" + (f"|{spellings}" if spellings else ""))
        self._beginnings = {spelling[:length] for spelling in self._special for length in range(1, len(spelling))}
        self._longest = max((len(beginning) for beginning in self._beginnings), default=0)
        self._cuts = re.compile(f"([{_START}{_END}]" + (f"|{spellings}" if spellings else "") + ")")
        if source is None:
            missing = [mark for mark in dict.fromkeys(_OWN_MARKS.findall(DEFAULT_TEMPLATE)) if mark not in self._special]
            if missing:
                raise BadConfiguration(
                    f"{where}: the tokenizer has no special token {missing[0]}, which Halcyon's own template uses; "
                    "give the template that belongs to the tokenizer, or use spec.tokenizer.bpe"
                )
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals.update(names, raise_exception=_refuse)
        text = DEFAULT_TEMPLATE if source is None else source
        try:
            self._template = environment.from_string(text)
            self.has_generation = _has_generation(environment, text)
        except TemplateSyntaxError as error:
            raise BadConfiguration(f"{where}: line {error.lineno} is not valid Jinja: {error.message}; fix the template") from None

    def render(self, messages: list[dict[str, Any]], tools: Any = None, *, to_generate: bool = False) -> list[Segment]:
        """The segments of a conversation, in order; no segment is empty.

        Args:
            messages: Objects with ``role`` and ``content``.
            tools: The tools of the conversation.
            to_generate: Whether the template is to add the beginning of the assistant's turn. Halcyon's own does not.

        Raises:
            TemplateError, TypeError, ValueError, ...: Any error of the template, for messages that do not fit it.
        """
        text = self._template.render(messages=self._escape(messages), tools=self._escape(tools), add_generation_prompt=to_generate)
        return list(self._segments(text))

    def _segments(self, text: str) -> Iterator[Segment]:
        counts = False
        for part in self._cuts.split(text):
            if part == _START:
                counts = True
            elif part == _END:
                counts = False
            elif part in self._special:
                yield Segment(self._special[part], counts)
            elif part:
                yield Segment(_ESCAPED.sub(lambda match: _MEANINGS[match[1]], part), counts)

    def _escape(self, value: Any) -> Any:
        if isinstance(value, str):
            head, tail = self._split_off_beginning(value)
            return self._to_escape.sub(_broken, head) + (f"{tail[0]}{_ESCAPE}-{tail[1:]}" if tail else "")
        if isinstance(value, Mapping):
            return {self._escape(key): self._escape(item) for key, item in value.items()}
        return [self._escape(item) for item in value] if isinstance(value, list | tuple) else value

    def _split_off_beginning(self, text: str) -> tuple[str, str]:
        """Cut off the longest end of a text that is the beginning of a special token: the rest, and this end ("" if there is none)."""
        for length in range(min(self._longest, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                return text[:-length], text[-length:]
        return text, ""


class _Generation(Extension):
    """``{% generation %}``: puts marks around its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return [_mark(_START, line), *body, _mark(_END, line)]


def _mark(sign: str, line: int) -> nodes.Output:
    return nodes.Output([nodes.TemplateData(sign)], lineno=line)


def _has_generation(environment: ImmutableSandboxedEnvironment, text: str) -> bool:
    return any(data.data == _START for data in environment.parse(text).find_all(nodes.TemplateData))


def _broken(match: re.Match[str]) -> str:
    found = match[0]
    return _ESCAPE + _CODES[found] if found in _CODES else f"{found[0]}{_ESCAPE}-{found[1:]}"


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    """The ``tojson`` filter that Hugging Face's templates expect: it does not escape for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)
