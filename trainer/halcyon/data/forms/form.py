"""Recognises the form of rows by the names of their fields.

The names decide the form of a whole source, so that a row of another form is an error and not silently read in another
way. What a field holds (a text, messages, turns of ShareGPT) is looked at row by row, by `halcyon.data.forms.messages`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from halcyon_api.checkpoint_documents import Document
from halcyon_api.spec.sources import ChatFormatSpec, FormatSpec, PreferenceFormatSpec, PromptFormatSpec

Part = Literal[
    "request",
    "messages",
    "history",
    "question",
    "input",
    "answer",
    "chosen",
    "rejected",
    "system",
    "tools",
    "label",
    "images",
]
"""What a field of a row holds: the request of OpenAI's pairs; a list of messages; pairs of question and answer before
the question; the question and what belongs to it; its answer; the two answers of a pair; the system message; the tools;
whether the answer is a good one; the images of the messages."""
_MESSAGES = {"messages": "messages", "conversations": "ShareGPT", "conversation": "conversation"}
"""Fields that hold a whole conversation, and the names of their forms."""
_REFERENCES = ("reference", "answer", "completion", "output", "response", "solution", "ground_truth")
_SYSTEMS = ("system", "system_prompt")
_LABELS = ("label", "kto_tag")
_OPENAI_PAIR = ("input", "preferred_output", "non_preferred_output")
_KNOWN = (
    "messages; conversations (ShareGPT); instruction and output (Alpaca); prompt and completion; question and answer"
)
_KINDS = {
    str: "a text",
    bytes: "bytes",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


@dataclass(frozen=True)
class BadValue:
    """Stands for the value in its row.

    It is an error only if the field is read, so a field that no format reads ends no build.
    """

    problem: str
    """What is wrong, for the sentence "row 3 of FILE ... in the field 'text'": ``is not UTF-8``."""
    fix: str = "fix the row"


class BadConversation(Exception):
    """A row is not a valid conversation. The error's message gives the reason.

    Attributes:
        fix: The fix.
        part: The part of the row's form that is wrong, such as ``rejected``; None: it is not known, or all of it.
    """

    def __init__(self, what: str, fix: str = "fix the row", part: str | None = None) -> None:
        super().__init__(what)
        self.fix = fix
        self.part = part


class Form(Document):
    """The form of the rows of a source."""

    name: str
    """Usual name of the form."""
    fields: dict[Part, str]
    """Field of the row for each part."""

    def __str__(self) -> str:
        """For the log: ``Alpaca with labels (KTO): instruction, input, output, label``."""
        return f"{self.name}{' with labels (KTO)' if 'label' in self.fields else ''}: {', '.join(self.needed)}"

    @property
    def needed(self) -> tuple[str, ...]:
        """The fields of a row that are read, in the order of the parts."""
        return tuple(dict.fromkeys(field for _, field in self.parts))

    @property
    def parts(self) -> tuple[tuple[Part, str], ...]:
        """Each part and its field, in the order of the parts."""
        return tuple((part, self.fields[part]) for part in get_args(Part) if part in self.fields)


class _Names(NamedTuple):
    """A form with a question and an answer."""

    name: str
    question: str
    inputs: Sequence[str]
    answers: Sequence[str]


_QUESTIONS = (
    _Names("Alpaca", "instruction", ("input", "context"), ("output", "response")),
    _Names("prompt and completion", "prompt", (), ("completion", "response")),
    _Names("question and answer", "question", (), ("answer", "response")),
    _Names("question and answer", "query", (), ("response", "answer")),
)


def named_form(spec: FormatSpec) -> Form | None:
    """The form of a format whose document names the fields; None: the rows decide, or they are no conversations."""
    if (chat := spec.chat) is not None and chat.messages_field is not None:
        return _form("messages", {"messages": chat.messages_field, "tools": chat.tools_field})
    if (pair := spec.preference) is not None and pair.chosen_field is not None and pair.rejected_field is not None:
        named = {"question": pair.prompt_field, "chosen": pair.chosen_field, "rejected": pair.rejected_field}
        return _form("pairs", named)
    if (prompt := spec.prompt) is not None and prompt.field is not None:
        return _form("prompts", {"question": prompt.field, "answer": prompt.reference_field})
    return None


def recognise(spec: FormatSpec, names: Collection[str]) -> Form:
    """The form of rows with some fields.

    Args:
        spec: The format: chat, preference or prompt. Fields that it names are taken as they are named.
        names: The names of the fields of a row.

    Raises:
        BadConversation: No form has these fields.
    """
    if (named := named_form(spec)) is not None:
        return named
    if spec.chat is not None:
        return _chat(spec.chat, names)
    if spec.preference is not None:
        return _preference(spec.preference, names)
    if spec.prompt is not None:
        return _prompt(spec.prompt, names)
    raise TypeError(f"rows of the format {spec.kind} have no form")


def of_first_row(spec: FormatSpec, row: Mapping[str, Any]) -> Form:
    """The form of a source, by its first row. A field `label` whose value there is no truth value is not the label of
    an answer.

    Raises:
        BadConversation: No form has these fields.
    """
    form = recognise(spec, row)
    label = form.fields.get("label")
    if label is None or row[label] is None or isinstance(row[label], BadValue) or truth_of(row[label]) is not None:
        return form
    return form.but(fields={part: field for part, field in form.fields.items() if part != "label"})


def kind_of(value: object) -> str:
    """Description of a value's type for a message."""
    return _KINDS.get(type(value), f"a value of type {type(value).__name__}")


def truth_of(value: object) -> bool | None:
    """The truth value of a label: true or false, 1 or 0, or one of these words as text (CSV). None: it has none."""
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.strip().casefold())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def _chat(spec: ChatFormatSpec, names: Collection[str]) -> Form:
    more = _beside(names) | ({} if spec.tools_field is None else {"tools": spec.tools_field})
    more["images"] = _first(("images", "image"), names)
    if (field := _first(_MESSAGES, names)) is not None:
        return _form(_MESSAGES[field], {"messages": field, **more})
    for form in _QUESTIONS:
        if form.question in names and (answer := _first(form.answers, names)) is not None:
            return _form(form.name, {**_asked(form, names), "answer": answer, **more})
    if {"chosen", "rejected"} <= set(names):
        raise BadConversation(
            "has the fields chosen and rejected, so it is a pair and not a conversation", "set format preference"
        )
    if "text" in names:
        raise BadConversation(
            "has a text and no conversation", "set format text, or give rows with one of these fields: " + _KNOWN
        )
    raise _unknown(names, "conversation", "messages", "messagesField", _KNOWN)


def _preference(spec: PreferenceFormatSpec, names: Collection[str]) -> Form:
    chosen, rejected = spec.chosen_field or "chosen", spec.rejected_field or "rejected"
    if spec.chosen_field is None and spec.rejected_field is None and set(_OPENAI_PAIR) <= set(names):
        request, *answers = _OPENAI_PAIR
        return _form("pairs of OpenAI", {"request": request, "chosen": answers[0], "rejected": answers[1]})
    if not {chosen, rejected} <= set(names):
        if _first(_LABELS, names) is not None:
            raise BadConversation(
                "has a label for one answer (KTO), and no pair",
                "give rows with chosen and rejected, or finetune on the answers whose label is true with format chat",
            )
        raise _unknown(
            names, "pair", chosen, "chosenField and rejectedField", "chosen and rejected, with or without prompt"
        )
    question = spec.prompt_field or _first(
        [form.question for form in _QUESTIONS if form.question != "instruction"], names
    )
    inputs = None
    if spec.prompt_field is None and question != "prompt" and "instruction" in names:
        question, inputs = "instruction", _first(_QUESTIONS[0].inputs, names)
    asked = (
        {"question": question, "input": inputs}
        if question
        else {"messages": _first(("conversations", "messages", "conversation"), names)}
    )
    name = {"instruction": "Alpaca pairs", "conversations": "ShareGPT pairs", None: "pairs"}.get(
        question or asked.get("messages"), "pairs with a prompt"
    )
    history = _first(("history",), names) if question == "instruction" else None
    pair = {"history": history, **asked, "chosen": chosen, "rejected": rejected}
    return _form(name, pair | _beside(names) | {"label": None})


def _prompt(spec: PromptFormatSpec, names: Collection[str]) -> Form:
    more = _beside(names)
    if (field := _first(_MESSAGES, names)) is not None:
        return _form(_MESSAGES[field], {"messages": field, "answer": spec.reference_field, **more})
    for form in _QUESTIONS:
        if form.question in names:
            answer = spec.reference_field or _first(_REFERENCES, names)
            name = form.name if answer is not None else "prompts"
            return _form(name, {**_asked(form, names), "answer": answer, **more})
    raise _unknown(names, "prompt", "messages", "field", "prompt; " + _KNOWN)


def _beside(names: Collection[str]) -> dict[str, str | None]:
    """The fields that any form may have too."""
    return {"system": _first(_SYSTEMS, names), "tools": _first(("tools",), names), "label": _first(_LABELS, names)}


def _asked(form: _Names, names: Collection[str]) -> dict[str, str | None]:
    """The fields of a question."""
    inputs = _first(form.inputs, names)
    return {"history": _first(("history",), names), "question": form.question, "input": inputs}


def _first(wanted: Iterable[str], names: Collection[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _form(name: str, fields: Mapping[Any, str | None]) -> Form:
    return Form(name=name, fields={part: field for part, field in fields.items() if field is not None})


def _unknown(names: Collection[str], what: str, first: str, setting: str, known: str) -> BadConversation:
    there = ", ".join(list(names)[:20]) or "nothing"
    return BadConversation(
        f"has no field {first!r}, only {there}, and no other known form of a {what}",
        f"name the field in {setting}, or give rows with one of these: {known}",
    )
