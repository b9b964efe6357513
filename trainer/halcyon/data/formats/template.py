"""Chat templates: sandboxed Jinja renders the messages of a conversation to one text, and says what in it is what.

Three things must be distinguished in the output of a template: special tokens that the *template* spells; the same
letters in the text of a *message* (`halcyon.data.templates`); and the assistant's text (``{% generation
%}``, as in Hugging Face's templates), which counts in the loss. Positions in the text cannot distinguish them, because
templates trim, join and repeat. So the text carries marks: code points that Unicode reserves for internal use
(noncharacters). Generation blocks put START and END around their output. After rendering, the marks are taken out, and
text that spells a special token without a mark comes from the template. So no message can end a turn or take another
role.

A template is code of a stranger, so a process of its own with a budget compiles it and prints with it
(`halcyon.host.limits.apart`). Halcyon's own template needs no such process.

What a template gets is what `apply_chat_template` of transformers gives it, so the text is the same:
https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/utils/chat_template_utils.py
"""

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from halcyon.data.formats.conversation import fitted, own_contents, text_roles
from halcyon.data.formats.text import size_in_bytes
from halcyon.data.forms.form import BadConversation
from halcyon.data.templates import Printer, unmarked
from halcyon.host.errors import BadConfiguration
from halcyon.host.limits.apart import Apart, Failed, OverLimit
from halcyon.tokenizer import Tokenizer, named_specials
from halcyon.tokenizer.rendered import Range, RenderedText, Spellings
from halcyon.tokenizer.special import CHAT_MARKS

DEFAULT_TEMPLATE = """\
{{- bos_token -}}
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
{%- if add_generation_prompt -%}{{- '<|assistant_start|>' -}}{%- endif -%}
"""
"""Halcyon's own template, the conversation of nanochat. The system message is joined to the first user message; the
output of tools does not count in the loss."""

DEFAULT_DAY = "2026-01-01"
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning in data; transformers gives templates the first two."""


class Rendered(NamedTuple):
    """A rendered conversation."""

    text: RenderedText
    counted: Sequence[Range]
    """The characters that the assistant says, so that they count in the loss."""

    @property
    def is_empty(self) -> bool:
        """Whether the template printed nothing."""
        return not self.text.text

    @property
    def size_bytes(self) -> int:
        """Bytes of the text in UTF-8, without special tokens."""
        text, special = self.text.text, self.text.special
        return size_in_bytes(text) - sum(len(text[start:end].encode()) for start, end in special)


_NOTHING = Rendered(RenderedText("", ()), ())


class DoesNotFit(BadConversation):
    """A template raised an error for some messages. It is user code, which may raise anything."""

    def __init__(self, error: Exception) -> None:
        self.reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        super().__init__(f"does not fit the template: {self.reason}", "fix the row, or the template")


class TurnEnd(NamedTuple):
    """The token after the assistant's words."""

    id: int
    spelling: str
    counted: bool
    """Whether it counts in the loss, so that the model learns to stop."""


def day(date: str | None) -> Callable[[], dt.datetime]:
    """The time that the templates of a training print: the beginning of a fixed day, so that the same rows give the
    same tokens.

    Args:
        date: YYYY-MM-DD; None: `DEFAULT_DAY`.
    """
    fixed = dt.datetime.fromisoformat(date or DEFAULT_DAY)
    return lambda: fixed


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja template; None: `DEFAULT_TEMPLATE`.
        tokenizer: The tokenizer, for its special tokens.
        where: The template's field in the run document.
        now: The time that the template prints.

    Attributes:
        is_own: Whether it is `DEFAULT_TEMPLATE`.
        has_generation: Whether the template says itself what the assistant says.

    Raises:
        BadConfiguration: It is not valid Jinja, or over its budget, or the tokenizer lacks special tokens of Halcyon's
            own template.
    """

    def __init__(self, source: str | None, tokenizer: Tokenizer, where: str, now: Callable[[], dt.datetime]) -> None:
        self.is_own = source is None
        special = self._special = tokenizer.special_tokens
        self._spellings, self._now = Spellings(special), now
        missing = [mark for mark in CHAT_MARKS if mark not in special] if source is None else []
        if missing:
            raise BadConfiguration(
                f"{where}: the tokenizer has no special token {missing[0]}, which Halcyon's own template uses; "
                "give the template that belongs to the tokenizer, or use spec.tokenizer.bpe"
            )
        names = named_specials(tokenizer)
        self._own = Printer(DEFAULT_TEMPLATE, names, special) if source is None else None
        self._given = Apart(where, Printer, source, names, list(special))
        try:
            self.has_generation, uses = self._own.contents() if self._own is not None else self._given.call("contents")
        except Failed as error:
            raise BadConfiguration(f"{where}: {error}; fix the template") from None
        self._uses = frozenset[str](uses)

    def uses(self, name: str) -> bool:
        """Whether a variable or a function of this name stands in the template."""
        return name in self._uses

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Any = None,
        *,
        to_generate: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """The text of a conversation.

        Args:
            messages: Objects with ``role`` and ``content``.
            tools: The tools of the conversation.
            to_generate: Whether the template is to add the beginning of the assistant's turn.
            variables: Further variables of the template.

        Raises:
            OverLimit: The template needs more time or memory than it may have.
            DoesNotFit: The template raised an error.
        """
        given = [self._with_calls(_as_transformers(message)) for message in messages]
        marked, ranges, breaks = unmarked(self._print(given, tools, to_generate, dict(variables or {})))
        if not breaks:
            return Rendered(self._spellings.rendered(marked), ranges)
        places = set(breaks)
        text = self._spellings.rendered(
            marked, lambda start, end: any(place in places for place in range(start + 1, end))
        )
        return Rendered(text, ranges)

    def _with_calls(self, message: dict[str, Any]) -> dict[str, Any]:
        calls = message.get("tool_calls")
        if not isinstance(calls, list):
            return message
        return message | {"tool_calls": [_call(call, as_text=self._wants_text) for call in calls]}

    @cached_property
    def _wants_text(self) -> bool:
        """Whether the template takes the arguments of a call only as a text."""

        def takes(arguments: Any) -> bool:
            call = {"id": "halcyon00", "type": "function", "function": {"name": "halcyon", "arguments": arguments}}
            asked = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
            try:
                return "{'" not in self._print(asked, None, False, {})  # as Python writes an object
            except DoesNotFit:
                return False

        return takes('{"halcyon": 1}') and not takes({"halcyon": 1})

    def _print(self, *arguments: Any) -> str:
        call: Callable[..., str] = self._own.print if self._own is not None else partial(self._given.call, "print")
        try:
            return call(*arguments, self._now().isoformat())
        except OverLimit:
            raise
        except Exception as error:
            raise DoesNotFit(error) from None

    def fit(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages with contents as the template takes them.

        Raises:
            BadConversation: A content is missing, a number, or a part that is no text.
        """
        if self.is_own:
            return own_contents(messages)
        return [fitted(message, place, self._text_roles) for place, message in enumerate(messages)]

    @cached_property
    def _text_roles(self) -> frozenset[str]:
        return text_roles(lambda messages: self.render(messages).text.text)

    def turn_end(self) -> TurnEnd | None:
        """The special token that ends the assistant's turn; None if none follows its words, or no such conversation
        fits.
        """
        rendered, following = self.after_answer()
        if not following:
            return None
        start, end = following[0]
        spelling = rendered.text.text[start:end]
        return TurnEnd(
            self._special[spelling], spelling, any(first <= start and end <= last for first, last in rendered.counted)
        )

    def after_answer(self, *later: Mapping[str, Any]) -> tuple[Rendered, list[Range]]:
        """The simplest conversation, and the special tokens that directly follow its answer; white space may stand
        before the first.

        Args:
            later: Messages after the answer.

        Returns:
            Nothing of both if the template takes no such conversation, or prints no answer.
        """
        words = "halcyon"
        try:
            rendered = self.render([{"role": "user", "content": "?"}, {"role": "assistant", "content": words}, *later])
        except DoesNotFit:  # this template is for other roles
            return _NOTHING, []
        text, following = rendered.text.text, list[Range]()
        said = text.rfind(words)
        end = said + len(words)
        for span in rendered.text.special:
            if said >= 0 and span[0] >= end:
                if text[end : span[0]] if following else text[end : span[0]].strip():
                    break
                following.append(span)
                end = span[1]
        return rendered, following

    def continued(self, rendered: Rendered, begun: str) -> Rendered:
        """A rendered prompt that goes on with the first words of the assistant; special tokens that these spell are
        tokens.
        """
        length = len(rendered.text.text)
        more = [(start + length, end + length) for start, end in self._spellings.rendered(begun).special]
        return Rendered(
            RenderedText(rendered.text.text + begun, [*rendered.text.special, *more], rendered.text.spells),
            rendered.counted,
        )


def _as_transformers(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as transformers gives it to a template: without what is null, and with the reasoning under each of its
    usual names.
    """
    kept = {name: value for name, value in message.items() if value is not None}
    reasoning = next((kept[name] for name in _REASONING if name in kept), None)
    return kept if reasoning is None else {"thinking": reasoning, **kept, "reasoning_content": reasoning}


def _call(call: Any, *, as_text: bool) -> Any:
    """A call with its arguments as an object, or as a text; what is no JSON object stays as it is.

    OpenAI writes the arguments as a text. Most templates print them as JSON, which would quote a text once more.
    """
    function: Any = call.get("function", call) if isinstance(call, Mapping) else None
    given: Any = function.get("arguments") if isinstance(function, Mapping) else None
    found: Any = None
    if as_text and isinstance(given, Mapping):
        found = json.dumps(given, ensure_ascii=False)
    elif not as_text and isinstance(given, str):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(given.strip() or "{}")
            found = value if isinstance(value, dict) else None
    if found is None:
        return call
    made = {**function, "arguments": found}
    return made if function is call else {**call, "function": made}


def prompt_tokens(rendered: Rendered, tokenizer: Tokenizer) -> np.ndarray:
    """The tokens of a rendered prompt, up to the assistant's next words: int32 [tokens]."""
    return tokenizer.encode_rendered([rendered.text])[0].tokens
