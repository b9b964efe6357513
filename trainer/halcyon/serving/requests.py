"""What a request may say: the fields of OpenAI's interface, and a few more that other servers have too.

Fields that have no meaning here, such as ``user``, are accepted and have no effect. A field that would change the text
and is not supported is refused, unless it has its default.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from halcyon.serving.errors import ApiError, invalid
from halcyon_api.base import AtLeastOne

_PLACE = re.compile(r"[a-z_]+")
_MOST_MESSAGES = 1024
_MOST_STOPS = 16
_MOST_TOOLS = 128

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Part(BaseModel):
    """A part of a request. Further fields, which a client copies from an answer, have no effect."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


class StrictPart(Part):
    """A part of a request without further fields."""

    model_config = ConfigDict(extra="forbid")


class TextPart(StrictPart):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(StrictPart):
    """Where an image is: in a ``data:`` URI."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(StrictPart):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl | str


class CalledFunction(Part):
    """The function of an earlier call."""

    name: Name
    arguments: str = "{}"


class ToolCall(Part):
    """An earlier call of a tool."""

    id: Annotated[str, Field(max_length=256)] = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Part):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | ImagePart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    token_ids: Annotated[list[int], Field(min_length=1)] | None = None
    """The tokens of a last message that goes on; see `ChatRequest.continue_final_message`."""


class Function(StrictPart):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(StrictPart):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(StrictPart):
    """The name of a function."""

    name: Name


class NamedTool(StrictPart):
    """The tool that the model must call."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(StrictPart):
    """The schema of an answer."""

    name: Name
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class TextFormat(StrictPart):
    """An answer in any form, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(StrictPart):
    """An answer in JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class StreamOptions(StrictPart):
    """Settings of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class AnyRequest(StrictPart):
    """The fields that all endpoints of texts have."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None  # no effect here


class Conversation(AnyRequest):
    """The fields that both endpoints of conversations have."""

    top_logprobs: NonNegativeInt | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # No effect here.
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class Request(AnyRequest):
    """The fields that both older endpoints have."""

    n: AtLeastOne | None = None
    max_tokens: AtLeastOne | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=_MOST_STOPS)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end a text."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return bool(self.stream_options is not None and self.stream_options.include_usage)


class ChatRequest(Request, Conversation):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=_MOST_MESSAGES)]
    max_completion_tokens: AtLeastOne | None = None
    logprobs: bool | None = None
    response_format: Annotated[TextFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: Annotated[list[Tool], Field(max_length=_MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    continue_final_message: bool | None = None
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None  # no effect here


class TextRequest(Request):
    """The body of ``POST /v1/completions``."""

    prompt: str | list[str] | list[int] | list[list[int]] | None = None
    max_tokens: NonNegativeInt | None = None
    logprobs: NonNegativeInt | None = None
    echo: bool | None = None
    best_of: AtLeastOne | None = None
    suffix: None = None


Kind = TypeVar("Kind", bound=BaseModel)


def parsed(kind: type[Kind], document: Mapping[str, Any]) -> Kind:
    """A request as its type.

    Raises:
        ApiError: It is not valid; the message names the first field that is wrong.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        # A field with several types has a fault for each; the deepest is that of the type which fits best.
        of_field = [fault for fault in faults if fault["loc"][:1] == faults[0]["loc"][:1]]
        fault = max(of_field, key=lambda fault: len(fault["loc"]))
        raise _refused(fault["loc"], fault["type"], fault["msg"]) from None


def _refused(loc: tuple[int | str, ...], kind: str, message: str) -> ApiError:
    # The parts of a choice between types, such as "list[str]", are no part of the place.
    names = [
        str(part)
        for part in loc
        if isinstance(part, int) or (_PLACE.fullmatch(part) and part not in ("str", "int", "float", "bool"))
    ]
    place = ".".join(names[:8]) or None
    if kind == "extra_forbidden":
        text = "there is no such field; leave it out"
    elif kind == "missing":
        text = "the field is missing"
    elif kind == "too_long" and " 0 items" in message:
        text = "it is not supported; leave it out"
    else:
        text = message[:1].lower() + message[1:]
    return invalid(text, place, place=place or "body")
