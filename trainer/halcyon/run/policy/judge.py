"""The reward ``judge``: another model reads an answer and gives a number.

The model is at a URL of OpenAI's protocol, such as that of ``halcyon serve`` with other weights.
"""

import json
import re
import string
import urllib.request
from typing import Any

from halcyon.run.policy.environment_process import Conversation

_PROMPT = """\
Grade the answer to the question by the reference. Write one number from 0 (wrong) to 1 (right), and nothing else.

Question: $prompt

Reference: $reference

Answer: $answer
"""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def judge(conversation: Conversation) -> float:
    """The first number in the judge's words about one answer.

    ``arguments`` has ``url`` (such as http://host:8000/v1), ``model``, and maybe ``prompt``: a text with $prompt,
    $reference and $answer.

    Raises:
        ValueError: ``url`` is no HTTP address, or there is no number.
        OSError: The judge does not answer.
    """
    given = conversation.arguments
    url = str(given.get("url", ""))
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"environment.arguments.url is {url!r}; give the base URL of a model, such as http://host/v1")
    answer = conversation.chat(conversation.messages)["content"]
    text = string.Template(str(given.get("prompt", _PROMPT))).safe_substitute(
        prompt=conversation.prompt, reference=conversation.reference, answer=answer
    )
    asked = {"model": given.get("model", "default"), "messages": [{"role": "user", "content": text}], "temperature": 0}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(asked).encode(), headers)  # noqa: S310
    with urllib.request.urlopen(request) as response:  # noqa: S310 - the address is checked above
        document: Any = json.load(response)
    words = document["choices"][0]["message"]["content"]
    number = _NUMBER.search(words or "")
    if number is None:
        raise ValueError(f"the judge gave no number: {words!r:.80}")
    return float(number[0])
