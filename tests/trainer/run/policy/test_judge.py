"""The reward of a judge: a model behind OpenAI's protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from halcyon.host.http_server import QuietHandler, QuietServer
from halcyon.run.policy.environment_process import Conversation
from halcyon.run.policy.judge import judge

WORDS = ["0.75 of 1", "good"]


@pytest.fixture
def asked() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The URL of a judge that says `WORDS`, and what it was asked."""
    found: list[dict[str, Any]] = []

    class Judge(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            message = {"role": "assistant", "content": WORDS[len(found) - 1]}
            data = json.dumps({"choices": [{"message": message}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = QuietServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1", found
    server.shutdown()
    server.server_close()
    thread.join()


def conversation(**arguments: Any) -> Conversation:
    def complete(request: Any) -> dict[str, Any]:
        assert request["messages"] == [{"role": "user", "content": "1+1?"}]
        return {"choices": [{"message": {"role": "assistant", "content": "two"}}]}

    return Conversation("1+1?", [{"role": "user", "content": "1+1?"}], "2", arguments, "", "", complete)


def test_the_reward_is_the_number_that_the_judge_says(asked: tuple[str, list[dict[str, Any]]]) -> None:
    url, found = asked
    one = conversation(url=url, model="large", prompt="$prompt|$reference|$answer|$other")
    assert judge(one) == 0.75
    assert found[0]["model"] == "large"
    assert found[0]["messages"] == [{"role": "user", "content": "1+1?|2|two|$other"}]
    with pytest.raises(ValueError, match="the judge gave no number: 'good'"):
        judge(one)


@pytest.mark.parametrize("url", ["", "file:///etc/passwd"])
def test_a_judge_without_an_address_is_one_sentence(url: str) -> None:
    with pytest.raises(ValueError, match=r"environment\.arguments\.url is .*; give the base URL of a model"):
        judge(conversation(url=url))
