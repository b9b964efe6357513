"""An answer that was cut goes on: with the tokens of its beginning as if it had never been cut, or with its text."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon.serving.served import Served
from tests.trainer.serving.running import Running

pytestmark = pytest.mark.slow
LENGTH = 24
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "logprobs": True}


def asked(server: Running, **changes: Any) -> tuple[str, list[int], dict[str, Any]]:
    """The text of an answer, the ids of its tokens, and its usage."""
    with server.http() as http:
        answer = http.post("/v1/chat/completions", json=ASK | changes).json()
    (choice,) = answer["choices"]
    return choice["message"]["content"], [token["id"] for token in choice["logprobs"]["content"]], answer["usage"]


def going_on(content: str, ids: list[int] | None = None) -> dict[str, Any]:
    last = {"role": "assistant", "content": content} | ({} if ids is None else {"token_ids": ids})
    return {"messages": [*ASK["messages"], last], "continue_final_message": True}


def test_an_answer_that_is_cut_anywhere_goes_on_as_if_it_had_not_been_cut(server: Running, tiny: Served) -> None:
    text, whole, usage = asked(server, max_tokens=LENGTH)
    assert len(whole) == LENGTH
    texts = set[bool]()
    for cut in range(1, LENGTH):
        begun, ids, _ = asked(server, max_tokens=cut)
        assert ids == whole[:cut]
        rest, more, after = asked(server, max_tokens=LENGTH - cut, **going_on(begun, ids))
        assert ids + more == whole
        assert after["prompt_tokens"] == usage["prompt_tokens"] + cut
        texts.add(begun + rest == text)
        if not begun.endswith("\ufffd"):  # half a character is not completed: its whole was not shown
            assert begun + rest == text
        if tiny.tokenizer.encode(begun).tolist() == ids:  # so its text alone says the same
            assert asked(server, max_tokens=LENGTH - cut, **going_on(begun))[1] == more
    assert True in texts


def test_what_cannot_go_on_is_refused_in_one_sentence(server: Running) -> None:
    form = {"type": "json_object"}
    for changes, sentence in (
        ({"continue_final_message": True}, "continue_final_message: the last message must be the assistant's"),
        (going_on("It is") | {"response_format": form}, "leave out tools and response_format"),
        (going_on("It is", [10**9]), "messages: token ids are integers of 0 to"),
        (going_on("It is", []), "messages.1.token_ids: "),
    ):
        with server.http() as http:
            answer = http.post("/v1/chat/completions", json=ASK | changes)
        assert answer.status_code == 400
        assert sentence in answer.json()["error"]["message"]
