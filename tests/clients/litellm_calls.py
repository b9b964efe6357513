"""Asks a server with litellm, in an environment that has it, and prints what it answers as JSON.

python tests/clients/litellm_calls.py http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm  # pyright: ignore[reportMissingImports]

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"warm": {"enum": [True]}},
            "required": ["warm"],
            "additionalProperties": False,
        },
    },
}


def main(base_url: str) -> dict[str, Any]:
    """What each kind of call answers."""
    place = {"model": "openai/tiny", "api_base": base_url, "api_key": "none", "temperature": 0, "max_tokens": 12}
    asked = {**place, "messages": [{"role": "user", "content": "Warm?"}]}
    tools = {**asked, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 64}
    whole = litellm.completion(**asked)
    parts = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    choices = [one for part in parts for one in part.choices]  # the last part has the usage alone
    called = litellm.completion(**tools).choices[0]
    deltas = [one.delta for part in litellm.completion(**tools, stream=True) for one in part.choices]
    pieces = [call for delta in deltas for call in delta.tool_calls or []]
    text = litellm.text_completion(**{**place, "model": "text-completion-openai/tiny"}, prompt="Warm?")
    return {
        "text": whole.choices[0].message.content,
        "finish": whole.choices[0].finish_reason,
        "tokens": whole.usage.completion_tokens,
        "streamed": "".join(one.delta.content or "" for one in choices),
        "streamed finish": [one.finish_reason for one in choices if one.finish_reason],
        "streamed tokens": [part.usage.completion_tokens for part in parts if getattr(part, "usage", None)],
        "call": [called.finish_reason, called.message.tool_calls[0].function.model_dump()],
        "streamed call": {
            "name": "".join(call.function.name or "" for call in pieces),
            "arguments": "".join(call.function.arguments or "" for call in pieces),
        },
        "completion": text.choices[0].text,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
