"""``POST /v1/responses``: the same conversations in the form of OpenAI's newer interface.

A request becomes a `ChatRequest`, so both endpoints prepare and compute the same. The server keeps no answers, so a
client sends the whole conversation each time.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Field

from halcyon.inference.sequence import Output, Token
from halcyon.inference.tool_calls import Call
from halcyon.serving.batch import Batch, Document, Events
from halcyon.serving.errors import invalid
from halcyon.serving.requests import ChatRequest, Conversation, Function, Name, Part, StrictPart, parsed
from halcyon_api.base import AtLeastOne

_LOGS = "message.output_text.logprobs"


class ContentPart(Part):
    """A part of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class MessageItem(Part):
    """A message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]


class CallItem(Part):
    """An earlier call of a function."""

    type: Literal["function_call"]
    call_id: str
    name: Name
    arguments: str


class ResultItem(Part):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[ContentPart]


class ReasoningItem(Part):
    """Reasoning of an earlier answer. Templates leave it out."""

    type: Literal["reasoning"]


class FunctionTool(Function):
    """A function that the model may call."""

    type: Literal["function"]


class NamedFunctionTool(StrictPart):
    """The function that the model must call."""

    type: Literal["function"]
    name: Name


class FormatPart(StrictPart):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name = "answer"
    description: str | None = None
    schema_: Annotated[Document | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextSettings(StrictPart):
    """Settings of the text of an answer."""

    format: FormatPart | None = None
    verbosity: str | None = None


class ReasoningSettings(Part):
    """Settings of the reasoning; the template gets the effort."""

    effort: str | None = None


class ResponsesRequest(Conversation):
    """The body of ``POST /v1/responses``."""

    input: str | list[MessageItem | CallItem | ResultItem | ReasoningItem]
    instructions: str | None = None
    max_output_tokens: AtLeastOne | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunctionTool | None = None
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    include: list[str] | None = None
    previous_response_id: str | None = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None

    def chat(self) -> ResponseChat:
        """The same as a request of a conversation.

        Raises:
            ApiError: A field is not valid, or needs answers that the server does not keep.
        """
        if self.previous_response_id is not None:
            raise invalid(
                "this server keeps no answers; leave it out, and send the whole conversation in input",
                "previous_response_id",
            )
        same = {"model", "temperature", "top_p", "top_k", "min_p", "seed", "stream", "chat_template_kwargs"}
        logs = self.top_logprobs is not None or _LOGS in (self.include or ())
        tools = [
            {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
            for tool in self.tools or ()
        ]
        named = self.tool_choice.name if isinstance(self.tool_choice, NamedFunctionTool) else None
        return parsed(
            ResponseChat,
            self.model_dump(include=same)
            | {
                "asked": self,
                "messages": self._messages(),
                "max_completion_tokens": self.max_output_tokens,
                "tools": tools or None,
                "tool_choice": self.tool_choice if named is None else {"type": "function", "function": {"name": named}},
                "response_format": self._format(),
                "reasoning_effort": None if self.reasoning is None else self.reasoning.effort,
                "logprobs": logs,
                "top_logprobs": self.top_logprobs,
            },
        )

    def _messages(self) -> list[Document]:
        messages: list[Document] = []
        if self.instructions is not None:
            messages.append({"role": "system", "content": self.instructions})
        items = [MessageItem(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        for item in items:
            if isinstance(item, MessageItem):
                messages.append({"role": item.role, "content": _joined(item.content)})
            elif isinstance(item, ResultItem):
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _joined(item.output)})
            elif isinstance(item, CallItem):
                call = {"id": item.call_id, "function": {"name": item.name, "arguments": item.arguments}}
                if not messages or messages[-1]["role"] != "assistant":  # one turn has a text and several calls
                    messages.append({"role": "assistant", "content": None})
                messages[-1].setdefault("tool_calls", []).append(call)
        return messages

    def _format(self) -> Document | None:
        found = None if self.text is None else self.text.format
        if found is None or found.type != "json_schema":
            return None if found is None else {"type": found.type}
        return {"type": found.type, "json_schema": {"name": found.name, "schema": found.schema_}}


class ResponseChat(ChatRequest):
    """A conversation that is answered in the form of this endpoint."""

    asked: ResponsesRequest


def _joined(content: str | list[ContentPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


class ResponseBatch(Batch):
    """The one text of a request, as items: messages and calls, in their order."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._asked = cast(ResponseChat, self.request).asked
        self._items: list[Document] = []
        self._open: Document | None = None
        """The message that text is added to. None: no message is open."""
        self._sent, self._status = 0, "in_progress"

    def keep(self, index: int, output: Output) -> None:
        """See `Batch`."""
        self.chunks(index, output)

    def begin(self) -> Events:
        """See `Batch`."""
        return [self._event(f"response.{name}", response=self.whole()) for name in ("created", "in_progress")]

    def chunks(self, index: int, output: Output) -> Events:
        """See `Batch`."""
        text, calls = self.add(index, output)
        events: Events = []
        is_blank = self._open is None and bool(self._asked.tools) and not text.strip()  # between calls
        if (text or output.tokens) and not is_blank:
            events += self._added(text, output.tokens)
        for call in calls:
            events += [*self._closed(), *self._called(call)]
        if output.finish is not None:
            if not self._items:
                events += self._added("", ())
            events += self._closed()
            self._status = "incomplete" if output.finish == "length" else "completed"
            events.append(self._event(f"response.{self._status}", response=self.whole()))
        return events

    def whole(self) -> Document:
        """See `Batch`."""
        asked, counts = self._asked, self.usage
        usage = {
            "input_tokens": counts["prompt_tokens"],
            "input_tokens_details": counts["prompt_tokens_details"] | {"cache_write_tokens": 0},
            "output_tokens": counts["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counts["total_tokens"],
        }
        is_cut = self._status == "incomplete"
        return {
            **_DEFAULTS,
            **asked.model_dump(by_alias=True, include=set(_DEFAULTS), exclude_unset=True),
            "id": f"resp_{self.number}",
            "object": "response",
            "created_at": self.created,
            "status": self._status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "model": self._served.name,
            "output": list(self._items),
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": None if self._status == "in_progress" else usage,
        }

    def _event(self, kind: str, **fields: Any) -> Document:
        self._sent += 1
        return {"type": kind, "sequence_number": self._sent - 1, **fields}

    def _of_part(self, kind: str, **fields: Any) -> Document:
        item = self._items[-1]
        place = {"item_id": item["id"], "output_index": len(self._items) - 1, "content_index": 0}
        return self._event(f"response.{kind}", **place, **fields)

    def _item(self, item: Document) -> Document:
        """A new item, which the event shows without its content."""
        self._items.append(item)
        empty = {"content": []} if "content" in item else {"arguments": ""}
        return self._event("response.output_item.added", output_index=len(self._items) - 1, item=item | empty)

    def _added(self, text: str, tokens: tuple[Token, ...]) -> Events:
        events: Events = []
        if self._open is None:
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            number = f"msg_{self.number}{len(self._items)}"
            self._open = {"id": number, "type": "message", "role": "assistant", "status": "in_progress"}
            self._open["content"] = [part]
            events = [self._item(self._open), self._of_part("content_part.added", part=dict(part))]
        part = self._open["content"][0]
        logs = (self._log_probs(0, tokens) or {"content": []})["content"]
        part["text"] += text
        part["logprobs"] = part["logprobs"] + logs
        return [*events, self._of_part("output_text.delta", delta=text, logprobs=logs)]

    def _closed(self) -> Events:
        """The events of the end of the open message, if there is one."""
        item, self._open = self._open, None
        if item is None:
            return []
        item["status"], part = "incomplete" if self._choices[0].finish == "length" else "completed", item["content"][0]
        return [
            self._of_part("output_text.done", text=part["text"], logprobs=part["logprobs"]),
            self._of_part("content_part.done", part=part),
            self._event("response.output_item.done", output_index=len(self._items) - 1, item=item),
        ]

    def _called(self, call: Call) -> Events:
        item = {
            "id": f"fc_{self.number}{len(self._items)}",
            "type": "function_call",
            "status": "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        return [
            self._item(item),
            self._of_part("function_call_arguments.delta", delta=call.arguments),
            self._of_part("function_call_arguments.done", arguments=call.arguments, name=call.name),
            self._event("response.output_item.done", output_index=len(self._items) - 1, item=item),
        ]


_DEFAULTS: Document = {
    "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True, "reasoning": None,
    "temperature": None, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_logprobs": None,
    "top_p": None, "user": None,
}  # fmt: skip
"""Fields of a request that its answer repeats, each with what stands for one that the request does not have."""
