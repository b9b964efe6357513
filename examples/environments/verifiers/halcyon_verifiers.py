"""Environments of the library `verifiers` (tried with 0.4.0): `rollout` is the reward of a run, and `Chat` the harness.

A row's reference is the record of its task, as JSON. ``environment.arguments`` has ``taskset``, the name of a module,
and maybe ``config``, as the section ``env`` of verifiers.
"""

import asyncio
import json
import os
import threading
from contextlib import AsyncExitStack
from functools import cache
from typing import Any

import verifiers.v1 as vf
from openai import APIStatusError, AsyncOpenAI, omit
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.harnesses.utils.mcp import call_mcp, connect_mcp

from halcyon.run.policy.environment_process import Conversation

__all__ = ["Chat"]  # verifiers finds a harness by the name of its module

_KEY = "HALCYON_ROLLOUT_API_KEY"


def rollout(conversation: Conversation) -> float:
    """The reward of one rollout.

    Raises:
        RuntimeError: It ended with an error, or was cut.
    """
    os.environ[_KEY] = conversation.key  # one for all rows
    given = conversation.arguments
    served = _served(given["taskset"], json.dumps(given.get("config", {})))
    return asyncio.run_coroutine_threadsafe(served.rollout(conversation), served.loop).result()


class _Served:
    """An environment with its tools, which serve all rows."""

    def __init__(self, taskset: str, given: dict[str, Any]) -> None:
        fields = vf.env_config_type(taskset, given.get("id", "")).model_fields.items()
        seat = {"harness": {"id": __name__}, "runtime": {"type": "subprocess"}}
        seats = {name: seat | given.get(name, {}) for name, one in fields if isinstance(one.default, vf.AgentConfig)}
        named = given | seats | {"taskset": given.get("taskset", {}) | {"id": taskset}}
        self._taskset, self._env = taskset, vf.load_environment(vf.resolve_env_config(named))
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self._serving = self._env.serving()  # without a name for it, its tools would end
        asyncio.run_coroutine_threadsafe(self._serving.__aenter__(), self.loop).result()

    async def rollout(self, conversation: Conversation) -> float:
        """See the function `rollout`."""
        kind = vf.task_type(self._taskset)
        data = kind.data_type().model_validate(json.loads(conversation.reference))
        client = vf.EvalClientConfig(base_url=conversation.url, api_key_var=_KEY)
        episode = await self._env.run_episode(
            kind(data, self._env.config.taskset.task), vf.ModelContext("policy", client)
        )
        traces = [trace for trace in episode.traces if trace.agent.trainable]
        errors = [str(error) for part in (episode, *episode.traces) for error in part.errors]
        errors += [str(call.error) for trace in episode.traces for call in trace.calls[-1:] if call.error]
        errors += [
            f"it ended early: {trace.stop_condition}" for trace in traces if trace.is_timeout or trace.is_truncated
        ]
        if errors or not episode.ok or len(traces) != 1:
            raise RuntimeError(errors[0] if errors else "the episode has not one trained agent")
        return float(traces[0].reward)


@cache
def _served(taskset: str, config: str) -> _Served:
    return _Served(taskset, json.loads(config))


class Chat(vf.Harness[vf.HarnessConfig]):
    """Asks the model, and calls the tools of the task, until the model calls none."""

    APPENDS_SYSTEM_PROMPT = SUPPORTS_MCP = SUPPORTS_RESUME = True
    EXECUTES_CODE = NEEDS_CONTAINER = False

    async def launch(
        self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: Any, data: Any
    ) -> Any:
        """One conversation; see verifiers."""
        system, prompt = self.resolve_prompt(data)
        prompt = [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else prompt or []
        messages: list[Any] = [{"role": "system", "content": system}] * bool(system) + [*map(message_to_wire, prompt)]
        where = {"mcpServers": {name: {"url": url} for name, url in mcp_urls.items()}}
        async with (
            AsyncOpenAI(base_url=endpoint, api_key=secret, timeout=None, max_retries=0) as client,
            AsyncExitStack() as stack,
        ):
            tools, names, servers = await connect_mcp(where, stack)
            while True:
                try:
                    reply = await client.chat.completions.create(
                        model=ctx.model, messages=messages, tools=tools or omit
                    )
                except APIStatusError as error:
                    return vf.ProgramResult(1, "", str(error))
                message = reply.choices[0].message
                messages.append(message.model_dump(exclude_none=True))
                if not message.tool_calls:
                    return vf.ProgramResult(0, "", "")
                for call in message.tool_calls:
                    try:
                        arguments = json.loads(call.function.arguments)
                        content = await call_mcp(servers, names, call.function.name, arguments)
                    except (ValueError, KeyError) as error:  # no JSON, or no such tool: the model reads it
                        content = f"error: {error!r}"
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
