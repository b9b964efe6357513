# ruff: noqa: RUF001 - the marks of DeepSeek have signs that look like others
"""Calls of tools in a text, in the form in which the model's chat template writes them.

`FORMS` is the table of the forms. A form says where calls begin and end, and has the parser of what stands there.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from halcyon.inference.text import StopStrings

Functions = Mapping[str, Mapping[str, Any]]
"""The JSON schema of the parameters of each function, by its name."""


class Call(NamedTuple):
    """A call of a tool."""

    id: str
    name: str
    arguments: str
    """JSON."""

    def document(self, index: int | None = None) -> dict[str, Any]:
        """The call in an answer; with its number in a stream."""
        place = {} if index is None else {"index": index}
        return place | {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


Calls = list[Call]
"""Calls in a text, in their order."""


@dataclass(frozen=True)
class ToolFormat:
    """How templates of one kind write calls.

    Attributes:
        name: Of the form.
        signs: A template that has one of these texts writes calls in this form.
        begins: The marks before calls; the first one stands before a call that a request demands.
        ends: The marks after calls. None: they end with the text.
        read: The calls in what stands between the marks.
        head: What stands before the arguments of a call of one function, and the text between it and the arguments.
            None: calls are JSON with the name in it.
        others: Further special tokens that `read` needs.
        stops: Special tokens that end a text with calls.
        is_bare: Whether a text that begins with JSON is calls, without a mark.
        is_begun: Whether a text begins inside of the marks.
    """

    name: str
    signs: tuple[str, ...]
    begins: tuple[str, ...]
    ends: tuple[str, ...]
    read: Callable[[str, Functions], Calls]
    head: str | None = None
    others: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    is_bare: bool = False
    is_begun: bool = False

    @property
    def marks(self) -> frozenset[str]:
        """The special tokens that a reader must see as text."""
        return frozenset((*map(str.strip, self.begins), *self.ends, *self.others))


def _call(name: str, arguments: Any) -> Call:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return Call(f"call_{secrets.token_hex(12)}", name, text)


def _json(text: str) -> Any:
    """The value of a text; None if it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def json_calls(body: str, functions: Functions) -> Calls:
    """Objects with ``name`` and ``arguments`` (or ``parameters``): alone, in a list, or with ; between them.

    Markdown may fence them.
    """
    del functions
    text = re.sub(r"^```(?:json)?\s|```$", "", body.strip()).strip()
    value = _json(text)
    found: Any = value if isinstance(value, list) else [value]
    if value is None and "};" in "".join(text.split()):
        found = [_json(part) for part in re.split(r"(?<=\})\s*;\s*(?=\{)", text)]
    calls: Calls = []
    for one in found:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            return []
        calls.append(_call(one["name"], one.get("arguments", one.get("parameters")) or {}))
    return calls


def _known_calls(body: str, functions: Functions) -> Calls:
    """`json_calls` of functions that the request has: an answer in JSON may have a name too."""
    calls = json_calls(body, functions)
    return calls if all(call.name in functions for call in calls) else []


def _xml_calls(body: str, functions: Functions) -> Calls:
    """``<function=NAME><parameter=NAME>VALUE</parameter></function>``, as Qwen 3 Coder writes it; else JSON."""
    calls: Calls = []
    for name, inside in re.findall(r"<function=([^>\s]+)>(.*?)(?:</function>|\Z)", body, re.DOTALL):
        properties = functions.get(name, {}).get("properties", {})
        values: dict[str, Any] = {}
        for key, text in re.findall(r"<parameter=([^>\s]+)>\n?(.*?)\n?(?:</parameter>|\Z)", inside, re.DOTALL):
            schema = properties.get(key) if isinstance(properties, Mapping) else None
            is_text = isinstance(schema, Mapping) and schema.get("type") == "string"
            value = None if is_text else _json(text)
            values[key] = text if value is None and text != "null" else value
        calls.append(_call(name, values))
    return calls or json_calls(body, functions)


def _mistral_calls(body: str, functions: Functions) -> Calls:
    """A list of objects, or ``NAME[ARGS]{...}`` after each mark."""
    if body.lstrip()[:1] in ("[", "{"):
        return json_calls(body, functions)
    calls: Calls = []
    for part in body.split("[TOOL_CALLS]"):
        name, brace, rest = part.partition("{")
        if not isinstance(_json(brace + rest), dict):
            return []
        calls.append(_call(re.split(r"\[(?:ARGS|CALL_ID)\]", name)[0].strip(), (brace + rest).strip()))
    return calls


def _deepseek_calls(body: str, functions: Functions) -> Calls:
    """``function<sep>NAME`` and the arguments between fences (V3, R1), or ``NAME<sep>`` and the arguments (V3.1)."""
    del functions
    calls: Calls = []
    for part in filter(str.strip, body.split("<｜tool▁call▁begin｜>")):
        before, _, after = part.partition("<｜tool▁call▁end｜>")[0].partition("<｜tool▁sep｜>")
        name, fence, arguments = after.partition("```json")
        if not fence:
            name, arguments = before, after
        arguments = arguments.strip().removesuffix("```").strip()
        if not name.strip() or not isinstance(_json(arguments), dict):
            return []
        calls.append(_call(name.strip(), arguments))
    return calls


def _harmony_calls(body: str, functions: Functions) -> Calls:
    """A message ``to=functions.NAME``, as gpt-oss writes it."""
    del functions
    header, mark, message = body.partition("<|message|>")
    to = re.search(r"to=(?:functions\.)?([\w.-]+)", header)
    return [_call(to[1], message.strip())] if mark and to and isinstance(_json(message), dict) else []


FORMS = (
    ToolFormat(
        "gpt-oss",
        ("<|channel|>",),
        (),
        ("<|end|>", "<|call|>", "<|return|>"),
        _harmony_calls,
        "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>",
        ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"),
        ("<|call|>", "<|return|>"),
        is_begun=True,
    ),
    ToolFormat(
        "deepseek",
        ("<｜tool▁call▁begin｜>",),
        ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        ("<｜tool▁calls▁end｜>",),
        _deepseek_calls,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n",
        ("<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
    ),
    ToolFormat("mistral", ("[TOOL_CALLS]",), ("[TOOL_CALLS]",), (), _mistral_calls, others=("[ARGS]", "[CALL_ID]")),
    ToolFormat("qwen", ("<function=",), ("<tool_call>\n",), ("</tool_call>",), _xml_calls),
    ToolFormat("hermes", ("<tool_call>",), ("<tool_call>\n",), ("</tool_call>",), json_calls),
    ToolFormat(
        "llama3",
        ("<|python_tag|>", "<|start_header_id|>"),
        ("<|python_tag|>",),
        (),
        _known_calls,
        stops=("<|eom_id|>",),
        is_bare=True,
    ),
    ToolFormat("json", ("",), (), (), _known_calls, is_bare=True),
)
"""The forms, the most special one first: the first one that a template has a sign of is its form."""


def form_of(template: str) -> ToolFormat:
    """The form of a template that shows tools to the model."""
    return next(form for form in FORMS if any(sign in template for sign in form.signs))


@dataclass(eq=False)
class CallReader:
    """Separates the calls in a text from the rest, while the text comes.

    What is no valid call stays part of the text.

    Args:
        form: How calls are written.
        functions: The functions that may be called.
        forced: The text is a call that the request demands: JSON with a name. None: it is free.
        named: The function of which a forced text is the arguments.
    """

    form: ToolFormat
    functions: Functions | None
    forced: bool
    named: str | None

    def __post_init__(self) -> None:
        self._functions = self.functions or {}
        self._begins = tuple(begin.strip() for begin in self.form.begins)
        self._outside = StopStrings(self._begins)
        self._is_first = True
        self._inside: str | None = "" if self.forced or self.form.is_begun else None
        self._mark = ""

    def push(self, text: str, *, last: bool) -> tuple[str, Calls]:
        """The text and the calls that a part of a text completes."""
        shown, calls = "", Calls()
        while True:
            if self._inside is None:
                waiting = self._outside.finish() + text
                if self.form.is_bare and self._is_first and waiting.lstrip()[:1] in ("{", "[", "`"):
                    self._inside, self._mark, text = "", "", waiting
                else:
                    places = [(waiting.find(begin), begin) for begin in self._begins if begin in waiting]
                    if not places:
                        self._is_first = self._is_first and not waiting.strip()
                        shown += self._outside.push(waiting)[0]
                        break
                    self._is_first = False
                    place, self._mark = min(places)
                    shown += waiting[:place]
                    self._inside, text = "", waiting[place + len(self._mark) :]
            self._inside += text
            ends = () if self.form.is_bare or self.forced else self.form.ends
            found = [(self._inside.find(end), end) for end in ends if end in self._inside]
            if not found and not last:
                break
            place, end = min(found, default=(len(self._inside), ""))
            body, text = self._inside[:place], self._inside[place + len(end) :]
            more = self._read(body)
            calls += more
            if not more:
                shown += self._left(body, end)
            self._inside = "" if self.form.is_begun and end else None
            self._is_first = False
            if not end:
                break
        if last and self._inside is None:
            shown += self._outside.finish()
        return shown, calls

    def _read(self, body: str) -> Calls:
        if not self.forced:
            return self.form.read(body, self._functions)
        if self.named is None:
            return json_calls(body, self._functions)
        return [_call(self.named, body.strip())] if isinstance(_json(body), dict) else []

    def _left(self, body: str, end: str) -> str:
        """What is shown of a text that is no call."""
        if self.forced or not self.form.is_begun:
            return self._mark + body + end
        header, mark, message = body.partition("<|message|>")
        return "" if "analysis" in header else message if mark else body
