"""From a request to its sequences: checks that need the model, and tokens."""

import secrets
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson

from halcyon.host.errors import BadConfiguration
from halcyon.inference.generating import prompt_ids, seeded
from halcyon.inference.grammar import JsonGrammar, SchemaLimit
from halcyon.inference.sampling import MOST_SEED, Sampling
from halcyon.inference.sequence import Sequence
from halcyon.inference.tool_calls import CallReader, form_of
from halcyon.serving.batch import Batch, Schema
from halcyon.serving.call_schema import call_schema
from halcyon.serving.errors import ApiError, check_model, invalid, overloaded
from halcyon.serving.limits import Limits
from halcyon.serving.requests import (
    ChatRequest,
    Function,
    Message,
    NamedTool,
    Request,
    SchemaFormat,
    TextPart,
    TextRequest,
)
from halcyon.serving.responses import ResponseBatch, ResponseChat
from halcyon.serving.served import Served
from halcyon.tokenizer import Tokenizer

_DEFAULT_TEXT_TOKENS = 16
"""Most tokens of a completion without ``max_tokens``, as in OpenAI's interface."""
_RETRY_SECONDS = 5


def texts_of(request: Request) -> int:
    """The number of texts that a request asks for."""
    prompts = len(several(request.prompt or "")) if isinstance(request, TextRequest) else 1
    return prompts * (request.n or 1)


def check(request: Request, name: str, limits: Limits) -> int:
    """Check what needs no model, and count the texts.

    Raises:
        ApiError: The request is not valid.
    """
    check_model(request.model, name)
    count = texts_of(request)
    most = min(limits.choices, limits.requests)
    if count > most:
        raise invalid(f"the request asks for {count} texts; at most {most} are possible", "n")
    if request.stream_options is not None and not request.stream:
        raise invalid("it is only for stream: true", "stream_options")
    asked = request.max_tokens
    if isinstance(request, ChatRequest):
        _check_chat(request, limits)
        asked = request.max_completion_tokens or request.max_tokens
    elif isinstance(request, TextRequest):
        if request.best_of is not None and request.best_of != (request.n or 1):
            raise invalid("it must equal n; this server returns every text that it computes", "best_of")
        if request.logprobs is not None and request.logprobs > 5:
            raise invalid("at most 5 are possible", "logprobs")
        if isinstance(request.prompt, list) and not request.prompt:
            raise invalid("the list is empty", "prompt")
    if asked is not None and limits.max_tokens is not None and asked > limits.max_tokens:
        raise invalid(f"{asked} is more than the {limits.max_tokens} tokens that this server allows", "max_tokens")
    return count


def _check_chat(request: ChatRequest, limits: Limits) -> None:
    if request.top_logprobs is not None:
        if not request.logprobs:
            raise invalid("set logprobs: true too", "top_logprobs")
        if request.top_logprobs > limits.alternatives:
            raise invalid(f"at most {limits.alternatives} are possible", "top_logprobs")
    if isinstance(request.response_format, SchemaFormat):
        _check_size("response_format.json_schema.schema", request.response_format.json_schema.schema_, limits)
    for number, tool in enumerate(request.tools or ()):
        _check_size(f"tools.{number}.function.parameters", tool.function.parameters, limits)
    _check_size("chat_template_kwargs", request.chat_template_kwargs, limits)
    chosen = request.tool_choice
    if chosen not in (None, "none", "auto") and not request.tools:
        raise invalid("the request has no tools", "tool_choice")
    if isinstance(chosen, NamedTool) and chosen.function.name not in {
        tool.function.name for tool in request.tools or ()
    }:
        raise invalid(f"there is no tool {chosen.function.name!r}", "tool_choice")
    has_form = request.response_format is not None and request.response_format.type != "text"
    if request.tools and has_form:
        raise invalid("a request with tools has text answers; leave one of the two out", "response_format")
    if request.continue_final_message and (request.tools or has_form or request.messages[-1].role != "assistant"):
        raise invalid(
            "the last message must be the assistant's; leave out tools and response_format", "continue_final_message"
        )


def _check_size(place: str, schema: dict[str, Any] | None, limits: Limits) -> None:
    field = place.partition(".")[0]
    try:
        size = len(orjson.dumps(schema))
    except TypeError:
        raise invalid("it is nested too deeply", field, place=place) from None
    if size > limits.schema_bytes:
        raise invalid(f"it has {size} bytes; at most {limits.schema_bytes} are possible", field, place=place)


def prepare(request: Request, served: Served, length: int, limits: Limits) -> Batch:
    """The sequences of a request that passed `check`. It may take a while: it encodes the prompts.

    Args:
        request: The request.
        served: The model.
        length: Most tokens of a prompt and its text.
        limits: The limits of the server.

    Raises:
        ApiError: The request does not fit the model.
    """
    try:
        prepared: Any = _chat if isinstance(request, ChatRequest) else _texts
        return prepared(request, served, length, limits)
    except UnicodeError:
        raise invalid("the text has a part of a character (a lone surrogate), which has no tokens") from None


def _chat(request: ChatRequest, served: Served, length: int, limits: Limits) -> Batch:
    prompts = served.prompts
    if prompts is None:
        raise invalid(
            "the model has no chat template; use /v1/completions, or start the server with --template",
            "messages",
        )
    tools, form, begun, named = None, None, "", None
    functions = [tool.function for tool in request.tools or ()]
    is_forced = bool(functions) and request.tool_choice not in (None, "auto", "none")
    if functions and request.tool_choice != "none":
        if prompts.template is None or not prompts.takes_tools:
            raise invalid("the chat template of the model does not show tools to it; leave them out", "tools")
        form = form_of(prompts.template)
        tools = [tool.model_dump(exclude_none=True) for tool in request.tools or ()]
    if form is not None and is_forced:
        chosen = request.tool_choice
        name = chosen.function.name if isinstance(chosen, NamedTool) else None
        functions = [function for function in functions if name in (None, function.name)]
        if form.head and len(functions) == 1:
            named = functions[0].name
            begun = form.head.replace("NAME", named)
        elif not form.head and not form.is_bare:
            begun = form.begins[0]
    variables = request.chat_template_kwargs or {}
    if request.reasoning_effort is not None:
        variables = {"reasoning_effort": request.reasoning_effort} | variables
    try:
        messages = [_message(message) for message in request.messages]
        last = messages.pop() if request.continue_final_message else None
        ids, images = prompts.seen(messages, tools, begun=begun, variables=variables)
        if last is not None:
            given = request.messages[-1].token_ids
            more = (
                served.tokenizer.encode(last["content"])
                if given is None
                else token_ids(given, served.tokenizer, "messages")
            )
            sight = served.model.sight
            if sight is not None and sight.image_token_index in more:
                raise invalid("token_ids has the token of an image; give an image as a part of a message", "messages")
            ids = np.concatenate((ids, more))
    except BadConfiguration as error:
        raise invalid(str(error), "messages") from None
    most = request.max_completion_tokens or request.max_tokens
    logs, count = bool(request.logprobs), texts_of(request)
    alternatives = (request.top_logprobs or 0) if logs else 0
    sampling = _sampling(request, _most_tokens(most, None, len(ids), length, limits), alternatives)
    schema = _schema(request, limits, functions if is_forced else None, named)
    ends, spelled, readers = set(served.ends), dict[int, str](), None
    if form is not None:
        special = served.tokenizer.special_tokens
        ends |= {special[stop] for stop in form.stops if stop in special}
        spelled = {token: name for name, token in special.items() if name in form.marks}
        known = {function.name: function.parameters or {} for function in functions}
        readers = [CallReader(form, known, forced=is_forced, named=named) for _ in range(count)]
    sequences = _sequences(ids, sampling, ends, count, logs)
    for sequence in sequences:
        sequence.images, sequence.spelled = images, spelled
    kind = ResponseBatch if isinstance(request, ResponseChat) else Batch
    return kind(request, served, sequences, len(ids), ("",) * count, readers, schema=schema)


def _texts(request: TextRequest, served: Served, length: int, limits: Limits) -> Batch:
    tokenizer, count = served.tokenizer, request.n or 1
    alternatives = min(request.logprobs or 0, limits.alternatives)
    sequences: list[Sequence] = []
    echoes: list[str] = []
    total = 0
    for index, prompt in enumerate(several(request.prompt or "")):
        ids = token_ids(prompt, tokenizer, "prompt")
        asked = 1 if request.max_tokens == 0 else request.max_tokens  # the text is left out; see `Batch`
        most = _most_tokens(asked, _DEFAULT_TEXT_TOKENS, len(ids), length, limits)
        sampling = _sampling(request, most, alternatives, index * count)
        made = _sequences(ids, sampling, tokenizer.ends, count, request.logprobs is not None)
        for sequence in made:
            sequence.logs_prompt = bool(sequence.logs and request.echo)
        sequences += made
        text = "" if not request.echo else prompt if isinstance(prompt, str) else tokenizer.decode(ids)
        echoes += [text] * count
        total += len(ids)
    return Batch(request, served, tuple(sequences), total, tuple(echoes))


def several(given: Any) -> list[Any]:
    """Texts or lists of token ids; what is given alone is one of one."""
    return [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given


def token_ids(given: str | list[int], tokenizer: Tokenizer, field: str) -> np.ndarray:
    """The tokens of a text, or the given ones: int32 [tokens].

    Raises:
        ApiError: The model does not have them. The sentence names the field.
        UnicodeError: The text has a part of a character.
    """
    if isinstance(given, str):
        return prompt_ids(tokenizer, given)
    if not given or min(given) < 0 or max(given) >= tokenizer.vocab_size:
        raise invalid(f"token ids are integers of 0 to {tokenizer.vocab_size - 1}, at least one", field)
    return np.array(given, np.int32)


def _sequences(
    ids: np.ndarray, sampling: Sampling, ends: Iterable[int], count: int, logs: bool
) -> tuple[Sequence, ...]:
    """The choices of a prompt: each has the next seed."""
    return tuple(Sequence(ids, one, frozenset(ends), logs=logs) for one in seeded(sampling, count))


def _sampling(request: Request, max_tokens: int, alternatives: int, offset: int = 0) -> Sampling:
    seed = secrets.randbits(32) if request.seed is None else request.seed
    return Sampling(
        max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_k=max(0, request.top_k or 0),
        top_p=1.0 if request.top_p is None else max(request.top_p, 1e-9),  # 0: the most likely token, as elsewhere
        min_p=request.min_p or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        seed=(seed + offset) % (MOST_SEED + 1),
        stop=request.stops,
        alternatives=alternatives,
    )


def _most_tokens(asked: int | None, default: int | None, prompt: int, length: int, limits: Limits) -> int:
    """Most tokens of the text.

    Raises:
        ApiError: Prompt and text are too long.
    """
    left = length - prompt
    wanted = asked if asked is not None else min(left, default or left, limits.max_tokens or left)
    if wanted < 1 or wanted > left:
        text = f" and a text of {asked}" if asked is not None else ""
        raise ApiError(
            400,
            f"a prompt of {prompt} tokens{text} do not fit into {length} tokens; shorten the prompt, or set max_tokens "
            "lower",
            param="max_tokens" if asked is not None and left > 0 else "messages",
            code="context_length_exceeded",
        )
    return wanted


def _schema(request: ChatRequest, limits: Limits, functions: list[Function] | None, named: str | None) -> Schema | None:
    """The schema that the texts must follow.

    Args:
        request: The request.
        limits: The limits of the server.
        functions: Those of which a call is demanded. None: no call is.
        named: The function whose arguments the text is. None: its name is in the text.

    Raises:
        ApiError: The schemas of the tools are too large together.
    """
    wanted = request.response_format
    if functions is not None:
        size = sum(len(orjson.dumps(function.parameters)) for function in functions)
        if size > limits.schema_bytes:
            raise invalid(
                f"the parameters of the functions have {size} bytes together, and a call of one of them is a JSON "
                f"schema of at most {limits.schema_bytes}; name one function in tool_choice, or give fewer",
                "tools",
            )
        alone = functions[0].parameters or {"type": "object"}
        return Schema("tools", call_schema(functions) if named is None else alone)
    if isinstance(wanted, SchemaFormat):
        return Schema("response_format", wanted.json_schema.schema_)
    if wanted is not None and wanted.type == "json_object":
        return Schema("response_format", {"type": "object"})
    return None


def grammars_of(schema: Schema, served: Served, count: int) -> list[JsonGrammar]:
    """Grammars for the texts of a request. It may take a while.

    Raises:
        ApiError: The schema is not valid, or takes too much time or memory.
    """
    try:
        return served.grammars.of_schema(schema.document, count)
    except SchemaLimit as error:
        if error.is_for_now:
            raise overloaded(_RETRY_SECONDS) from None
        raise invalid(f"the JSON schema cannot be used: {error}", schema.field) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise invalid(f"the JSON schema cannot be used: {str(error)[:300]}", schema.field) from None


def _message(message: Message) -> dict[str, Any]:
    """A message as templates take it: text without an image in one string."""
    content: Any = message.content
    if isinstance(content, list) and all(isinstance(part, TextPart) for part in content):
        content = "".join(part.text for part in content)
    elif isinstance(content, list):
        content = [part.model_dump(exclude_none=True) for part in content]
    role = "system" if message.role == "developer" else message.role
    shown = message.model_dump(exclude_none=True) | {"role": role, "content": content or ""}
    return {name: value for name, value in shown.items() if value != []}  # some templates print a list without calls
