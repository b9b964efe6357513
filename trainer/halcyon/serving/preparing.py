"""From a request to the texts to compute: checks that need the model, and tokens."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from halcyon.errors import BadConfiguration
from halcyon.inference.engine import Grammar
from halcyon.inference.generating import prompt_ids
from halcyon.inference.grammar import JsonGrammar, SchemaLimit
from halcyon.inference.sampling import MOST_SEED, Sampling
from halcyon.serving.errors import invalid, no_such_model, overloaded
from halcyon.serving.limits import Limits
from halcyon.serving.questions import ChatQuestion, Message, NamedTool, Question, SchemaFormat, TextQuestion
from halcyon.serving.sequence import Task
from halcyon.serving.served import Served
from halcyon.serving.tools import ToolsForm, call_schema, form_of

_DEFAULT_TEXT_TOKENS = 16
"""Most tokens of a completion without ``max_tokens``, as in OpenAI's interface."""
_RETRY_SECONDS = 5


@dataclass(frozen=True)
class Prepared:
    """The texts of a request.

    Attributes:
        tasks: One for each choice: those of the first prompt, then those of the next.
        prompt_tokens: Tokens of all prompts, each counted once.
        echoes: For each choice, the text of the prompt that comes before it.
        tools: How calls of tools are written in the texts. None: texts have no calls.
        forced: The beginning of a call that is not part of the text, because the request demands a call.
        schema: The JSON schema that the texts must follow. None: they are free.
    """

    tasks: tuple[Task, ...]
    prompt_tokens: int
    echoes: tuple[str, ...]
    tools: ToolsForm | None = None
    forced: str = ""
    schema: Schema | None = None

    def bound(self, grammars: Sequence[Grammar]) -> Prepared:
        """The same texts, each with a grammar."""
        tasks = tuple(dataclasses.replace(task, grammar=one) for task, one in zip(self.tasks, grammars, strict=True))
        return dataclasses.replace(self, tasks=tasks)


class Schema(NamedTuple):
    """A JSON schema of a request."""

    field: str
    """The field that it comes from."""
    document: dict[str, Any]


def texts_of(question: Question) -> int:
    """The number of texts that a request asks for."""
    prompts = 1
    if isinstance(question, TextQuestion) and isinstance(question.prompt, list) and question.prompt:
        prompts = 1 if isinstance(question.prompt[0], int) else len(question.prompt)
    return prompts * (question.n or 1)


def check(question: Question, name: str, limits: Limits) -> int:
    """Check what needs no model, and count the texts.

    Raises:
        ApiError: The request is not valid.
    """
    if question.model is not None and question.model != name:
        raise no_such_model(question.model, name)
    count = texts_of(question)
    most = min(limits.choices, limits.requests)
    if count > most:
        raise invalid(f"n: the request asks for {count} texts; at most {most} are possible", "n")
    if question.stream_options is not None and not question.stream:
        raise invalid("stream_options: it is only for stream: true", "stream_options")
    asked = question.max_tokens
    if isinstance(question, ChatQuestion):
        _check_chat(question, limits)
        asked = question.max_completion_tokens or question.max_tokens
    elif isinstance(question, TextQuestion):
        _check_text(question)
    if asked is not None and limits.max_tokens is not None and asked > limits.max_tokens:
        raise invalid(f"max_tokens: {asked} is more than the {limits.max_tokens} tokens that this server allows", "max_tokens")
    return count


def _check_chat(question: ChatQuestion, limits: Limits) -> None:
    if question.top_logprobs is not None:
        if not question.logprobs:
            raise invalid("top_logprobs: set logprobs: true too", "top_logprobs")
        if question.top_logprobs > limits.alternatives:
            raise invalid(f"top_logprobs: at most {limits.alternatives} are possible", "top_logprobs")
    if isinstance(question.response_format, SchemaFormat):
        _check_size("response_format.json_schema.schema", question.response_format.json_schema.schema_, limits)
    for number, tool in enumerate(question.tools or ()):
        _check_size(f"tools.{number}.function.parameters", tool.function.parameters, limits)
    chosen = question.tool_choice
    if chosen not in (None, "none", "auto") and not question.tools:
        raise invalid("tool_choice: the request has no tools", "tool_choice")
    if isinstance(chosen, NamedTool) and chosen.function.name not in {tool.function.name for tool in question.tools or ()}:
        raise invalid(f"tool_choice: there is no tool {chosen.function.name!r}", "tool_choice")
    if question.tools and question.response_format is not None and question.response_format.type != "text":
        raise invalid("response_format: a request with tools has text answers; leave one of the two out", "response_format")


def _check_size(place: str, schema: dict[str, Any] | None, limits: Limits) -> None:
    field = place.partition(".")[0]
    try:
        size = len(orjson.dumps(schema))
    except TypeError:
        raise invalid(f"{place}: it is nested too deeply", field) from None
    if size > limits.schema_bytes:
        raise invalid(f"{place}: it has {size} bytes; a JSON schema has at most {limits.schema_bytes}", field)


def _check_text(question: TextQuestion) -> None:
    if question.best_of is not None and question.best_of != (question.n or 1):
        raise invalid("best_of: it must equal n; this server returns every text that it computes", "best_of")
    if question.logprobs is not None and question.logprobs > 5:
        raise invalid("logprobs: at most 5 are possible", "logprobs")
    if question.echo and question.logprobs is not None:
        raise invalid("echo: the log probabilities of a prompt are not computed; leave echo or logprobs out", "echo")
    if isinstance(question.prompt, list) and not question.prompt:
        raise invalid("prompt: the list is empty", "prompt")


def prepare(question: Question, served: Served, length: int, limits: Limits) -> Prepared:
    """The texts of a request that passed `check`. It may take a while: it encodes the prompts.

    Args:
        question: The request.
        served: The model.
        length: Most tokens of a prompt and its text.
        limits: The limits of the server.

    Raises:
        ApiError: The request does not fit the model.
    """
    try:
        return _chat(question, served, length, limits) if isinstance(question, ChatQuestion) else _texts(question, served, length, limits)
    except UnicodeError:
        raise invalid("the text has a part of a character (a lone surrogate), which has no tokens") from None


def _chat(question: ChatQuestion, served: Served, length: int, limits: Limits) -> Prepared:
    prompts = served.prompts
    if prompts is None:
        raise invalid("messages: the model has no chat template; use /v1/completions, or start the server with --template", "messages")
    tools, form = None, None
    if question.tools and question.tool_choice != "none":
        form = form_of(served.template) if prompts.takes_tools else None
        if form is None:
            raise invalid("tools: the chat template of the model has no tools in a form that this server reads", "tools")
        tools = [tool.model_dump(exclude_none=True) for tool in question.tools]
    forced = form.begin if form is not None and question.tool_choice not in (None, "auto") else ""
    try:
        ids = prompts.ids([_message(message) for message in question.messages], tools, begun=forced)
    except BadConfiguration as error:
        raise invalid(f"messages: {error}", "messages") from None
    most = question.max_completion_tokens or question.max_tokens
    sampling = _sampling(question, _most_tokens(most, None, len(ids), length, limits))
    logs = bool(question.logprobs)
    sampling = dataclasses.replace(sampling, alternatives=(question.top_logprobs or 0) if logs else 0)
    count = texts_of(question)
    schema = _schema(question, limits, forced=bool(forced))
    return Prepared(_tasks(ids, sampling, served.ends, count, logs), len(ids), ("",) * count, form, forced, schema)


def _texts(question: Question, served: Served, length: int, limits: Limits) -> Prepared:
    assert isinstance(question, TextQuestion)  # noqa: S101 - the only other kind
    tokenizer, count = served.tokenizer, question.n or 1
    alternatives = min(question.logprobs or 0, limits.alternatives)
    tasks: list[Task] = []
    echoes: list[str] = []
    total = 0
    for index, prompt in enumerate(_prompts(question)):
        ids = prompt_ids(tokenizer, prompt) if isinstance(prompt, str) else _given(prompt, tokenizer.vocab_size)
        most = _most_tokens(question.max_tokens, _DEFAULT_TEXT_TOKENS, len(ids), length, limits)
        sampling = dataclasses.replace(_sampling(question, most, index * count), alternatives=alternatives)
        tasks += _tasks(ids, sampling, tokenizer.ends, count, question.logprobs is not None)
        text = "" if not question.echo else prompt if isinstance(prompt, str) else tokenizer.decode(ids)
        echoes += [text] * count
        total += len(ids)
    return Prepared(tuple(tasks), total, tuple(echoes))


def _prompts(question: TextQuestion) -> list[str] | list[list[int]]:
    prompt: Any = "" if question.prompt is None else question.prompt
    if isinstance(prompt, str):
        return [prompt]
    return [prompt] if isinstance(prompt[0], int) else prompt


def _given(prompt: list[int], tokens: int) -> np.ndarray:
    if not prompt or min(prompt) < 0 or max(prompt) >= tokens:
        raise invalid(f"prompt: token ids are integers of 0 to {tokens - 1}, at least one", "prompt")
    return np.array(prompt, np.int32)


def _tasks(ids: np.ndarray, sampling: Sampling, ends: tuple[int, ...], count: int, logs: bool) -> tuple[Task, ...]:
    """The choices of a prompt: each has the next seed."""
    seeds = [(sampling.seed + number) % (MOST_SEED + 1) for number in range(count)]
    return tuple(Task(ids, dataclasses.replace(sampling, seed=seed), ends, logs=logs) for seed in seeds)


def _sampling(question: Question, max_tokens: int, offset: int = 0) -> Sampling:
    seed = secrets.randbits(32) if question.seed is None else question.seed
    return Sampling(
        max_tokens,
        temperature=1.0 if question.temperature is None else question.temperature,
        top_k=max(0, question.top_k or 0),
        top_p=1.0 if question.top_p is None else max(question.top_p, 1e-9),  # 0 leaves the most likely token, as elsewhere
        min_p=question.min_p or 0.0,
        repetition_penalty=question.repetition_penalty or 1.0,
        seed=(seed + offset) % (MOST_SEED + 1),
        stop=question.stops,
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
        raise invalid(
            f"a prompt of {prompt} tokens{text} do not fit into {length} tokens; shorten the prompt, or set max_tokens lower",
            "max_tokens" if asked is not None and left > 0 else "messages",
            "context_length_exceeded",
        )
    return wanted


def _schema(question: ChatQuestion, limits: Limits, *, forced: bool) -> Schema | None:
    """The schema that the texts must follow.

    Raises:
        ApiError: The schemas of the tools are too large together.
    """
    wanted = question.response_format
    if forced:
        chosen = question.tool_choice
        name = chosen.function.name if isinstance(chosen, NamedTool) else None
        functions = [tool.function for tool in question.tools or () if name in (None, tool.function.name)]
        size = sum(len(orjson.dumps(function.parameters)) for function in functions)
        if size > limits.schema_bytes:
            raise invalid(
                f"tools: the parameters of the functions have {size} bytes together, and a call of one of them is a JSON schema of at most "
                f"{limits.schema_bytes}; name one function in tool_choice, or give fewer",
                "tools",
            )
        return Schema("tools", call_schema(functions))
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
        raise invalid(f"{schema.field}: the JSON schema cannot be used: {error}", schema.field) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise invalid(f"{schema.field}: the JSON schema cannot be used: {str(error)[:300]}", schema.field) from None


def _message(message: Message) -> dict[str, Any]:
    """A message as templates take it: text in one string, arguments of calls as objects."""
    content = message.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    found: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": content or ""}
    found |= {} if message.name is None else {"name": message.name}
    found |= {} if message.tool_call_id is None else {"tool_call_id": message.tool_call_id}
    if message.tool_calls:
        calls = [call.model_dump() for call in message.tool_calls]
        for call in calls:
            try:
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
            except (ValueError, RecursionError):
                continue  # the text as it is
        found["tool_calls"] = calls
    return found
