"""Conversations with an environment in a process of its own: tokens, failures, and what is recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from halcyon.host.errors import BadConfiguration, TrainerExit
from halcyon.inference.rollout import Answered
from halcyon.run.policy.answers import Question
from halcyon.run.policy.conversations import Failed, Outcome, Template
from halcyon.run.policy.environment import Recorded, Talk, Talks, failures, problem
from halcyon.run.policy.rollouts import Rollout
from halcyon_api.spec.objective import EnvironmentSpec, PolicySpec
from tests.trainer.data.formats.standin import MarkedBytes

MODULE = "tests.trainer.support.environments"
TEMPLATE = (
    "{% for m in messages %}<|user_start|>{{ m.role }}:{{ m.content }}<|user_end|>{% endfor %}"
    "{% if tools %}{{ tools | length }} tools{% endif %}"
    "{% if add_generation_prompt %}<|assistant_start|>{% endif %}"
)
TOKENIZER: Any = MarkedBytes()
END = TOKENIZER.special_tokens["<|user_end|>"]
MOST, WIDTH = 40, 60


class Alone:
    process_index, process_count = 0, 1

    def agree(self, value: Any) -> Any:
        return value


def policy(function: str = "by_reference", **environment: Any) -> PolicySpec:
    spec = EnvironmentSpec(**environment)
    return PolicySpec(reward=f"{MODULE}:{function}", max_tokens=MOST, delay_steps=1, environment=spec)


@contextmanager
def talks(spec: PolicySpec) -> Iterator[Talks]:
    found = Talks(spec, TOKENIZER, [TEMPLATE], Alone(), "file:///nowhere")
    try:
        yield found
    finally:
        found.close()


class Rows:
    """The answers of a batch, as they grow."""

    def __init__(self, rows: int, most: int = MOST) -> None:
        self.tokens, self.counts = np.zeros((rows, most), np.int32), np.zeros(rows, np.int32)
        self.own = np.zeros((rows, most), bool)

    def write(self, row: int, tokens: Any, *, own: bool) -> None:
        for token in tokens:
            self.tokens[row, self.counts[row]], self.own[row, self.counts[row]] = token, own
            self.counts[row] += 1

    def answered(self) -> Answered:
        return Answered(self.tokens, self.counts, self.own, self.counts > 0, np.zeros(self.tokens.shape, np.float32))


def say(text: str) -> list[int]:
    return [*TOKENIZER.encode(text).tolist(), END]


def conversation(spec: PolicySpec, references: list[str], said: str = "yes") -> tuple[Rows, Talk, list[Outcome]]:
    """Decode as `Rollouts` does, until no row goes on."""
    questions = [Question(np.array(TOKENIZER.encode(f"q{number}")), one) for number, one in enumerate(references)]
    rows = Rows(len(questions))
    with talks(spec) as every, every.of_batch(questions, 1, WIDTH, lambda one: TOKENIZER.show(one.tokens)) as talk:
        going = list(range(len(questions)))
        while going:
            for row in going:
                rows.write(row, say(said), own=True)
            replies = talk(going, rows.tokens, rows.counts)
            for row, reply in replies.items():
                rows.write(row, reply, own=False)
            going = list(replies)
        return rows, talk, talk.finish(rows.answered())


def test_each_conversation_ends_with_a_reward_or_a_named_failure() -> None:
    references = ["fine", "fails", "none", "rewrites", "long", "http"]
    rows, talk, outcomes = conversation(policy(), references)
    assert talk.contexts == [TOKENIZER.encode(f"q{number}").tolist() for number in range(len(references))]
    assert rows.counts.tolist() == [len(say("yes"))] * len(references), "the failed ones are not decoded further"
    kinds = [(one.kind, one.reward) for one in outcomes]
    failed = ("failed", 0.0)
    assert kinds == [("answered", 1.0), failed, failed, failed, ("tooLong", 0.0), failed]
    whys = ["", "LookupError: there is no such tool", "ValueError: it returned nan; return a finite number"]
    assert [one.why for one in outcomes[:3]] == whys
    assert "does not begin with the conversation so far" in outcomes[3].why
    assert outcomes[4].why == f"the conversation has more than {MOST} tokens"
    assert failures([one[:2] for one in outcomes]) == {
        "timed_out_answers": 0, "failed_answers": 4 / 6, "too_long_answers": 1 / 6,
    }  # fmt: skip


def test_a_request_that_is_none_fails_its_conversation_alone() -> None:
    references = ["messages", "calls", "functions", "fine"]
    _, _, outcomes = conversation(policy(), references)
    assert [one.kind for one in outcomes] == [*["failed"] * 3, "answered"]
    for one, says in zip(outcomes, ("has no messages", "has no messages", "tools of a request"), strict=False):
        assert says in one.why


def test_first_messages_that_are_too_long_fail_their_conversations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "WIDTH", 10)
    _, talk, outcomes = conversation(policy("asks_with_tools"), ["x", "y"], said="no")
    assert [one[:2] for one in outcomes] == [("tooLong", "the prompt has 31 tokens, and there is room for 10")] * 2
    assert talk.contexts == [TOKENIZER.encode(f"q{number}").tolist() for number in range(2)]


def test_words_of_the_environment_follow_the_tokens_of_the_model() -> None:
    rows, _, outcomes = conversation(policy("random_words"), ["", ""])
    for row in range(2):
        count = rows.counts[row]
        assert TOKENIZER.show(rows.tokens[row, :count][rows.own[row, :count]]) == "yes[user_end]yes[user_end]"
        between = TOKENIZER.show(rows.tokens[row, :count][~rows.own[row, :count]])
        assert between.startswith("[user_start]user:")
        assert between.endswith("[user_end][assistant_start]")
    assert rows.tokens[0].tolist() != rows.tokens[1].tolist(), "words are random"
    assert [one.kind for one in outcomes] == ["answered"] * 2


def test_a_first_request_may_be_other_messages_with_tools() -> None:
    spec = policy("asks_with_tools")
    _, talk, outcomes = conversation(spec, ["x"], said="no")
    assert TOKENIZER.show(np.array(talk.contexts[0])) == (
        "[user_start]system:Add.[user_end][user_start]user:1+1[user_end]1 tools[assistant_start]"
    )
    assert outcomes[0][:2] == ("answered", "")


def test_calls_of_tools_are_read_as_the_template_writes_them() -> None:
    tokenizer: Any = MarkedBytes((*TOKENIZER.special_tokens, "<tool_call>", "</tool_call>"))
    template = Template(tokenizer, TEMPLATE + "{# <tool_call> #}")
    call = [*tokenizer.encode("ok"), tokenizer.special_tokens["<tool_call>"]]
    call += [*tokenizer.encode('{"name": "add", "arguments": {"a": 1}}'), tokenizer.special_tokens["</tool_call>"], END]
    tools = [{"type": "function", "function": {"name": "add"}}]
    message = template.message([int(token) for token in call], tools, 7)
    assert message["content"] == "ok"
    function = {"name": "add", "arguments": '{"a": 1}'}
    assert message["tool_calls"] == [{"id": "call00070", "type": "function", "function": function}]
    assert "tool_calls" not in template.message([int(token) for token in call], None)


def test_halcyons_own_template_has_no_messages_of_tools() -> None:
    own = Template(TOKENIZER, None)
    said = own.following([{"role": "user", "content": "4"}], None, TOKENIZER.special_tokens["<|assistant_end|>"])
    assert TOKENIZER.show(np.array(said)) == "[user_start]4[user_end][assistant_start]"
    with pytest.raises(Failed, match="let a tool answer as the user"):
        own.following([{"role": "tool", "content": "4"}], None, END)


def test_a_conversation_that_waits_for_ever_is_timed_out_and_its_process_ends() -> None:
    spec = policy()
    assert spec.environment is not None
    spec = spec.model_copy(update={"environment": spec.environment.model_copy(update={"timeout_seconds": 0.5})})
    questions = [Question(np.array(TOKENIZER.encode("q")), "waits")]
    with talks(spec) as every:
        for _ in range(2):
            rows = Rows(1)
            with every.of_batch(questions, 1, WIDTH, lambda one: "q") as talk:
                child = every._child
                rows.write(0, say("yes"), own=True)
                assert talk([0], rows.tokens, rows.counts) == {}
                (outcome,) = talk.finish(rows.answered())
            assert outcome[:2] == ("timedOut", "no word from it for 0.5 s")
            assert child is not None
            assert child.has_ended


def test_the_death_of_the_process_fails_its_conversations_and_the_next_batch_has_another() -> None:
    questions = [Question(np.array(TOKENIZER.encode("q")), reference) for reference in ("dies", "fine")]
    with talks(policy()) as every:
        for references, kinds in ((questions, {"failed"}), (questions[1:] * 2, {"answered"})):
            rows = Rows(2)
            with every.of_batch(references, 1, WIDTH, lambda one: "q") as talk:
                for row in range(2):
                    rows.write(row, say("yes"), own=True)
                assert talk([0], rows.tokens, rows.counts) == {}
                talk([1], rows.tokens, rows.counts)
                outcomes = talk.finish(rows.answered())
            assert {one.kind for one in outcomes} == kinds, outcomes


def test_a_function_that_cannot_be_imported_is_one_sentence() -> None:
    with (
        pytest.raises(BadConfiguration, match=r"spec\.objective\.policy\.reward: tests\.none:f cannot be used: Module"),
        talks(policy().model_copy(update={"reward": "tests.none:f"})) as every,
        every.of_batch([], 1, WIDTH, str),
    ):
        pass


def test_a_record_says_what_the_environment_said() -> None:
    rows, talk, outcomes = conversation(policy("random_words"), ["", ""])
    arrays = (x.tolist() for x in rows.answered())
    kept = Rollout(0, 0, 5, [[1]] * 2, *arrays, [[one.reward] for one in outcomes], [0.0, 0.0])  # pyright: ignore[reportCallIssue]
    kept = replace(kept, contexts=talk.contexts, outcomes=[one[:2] for one in outcomes])
    again, recorded = Rows(2), Recorded(kept)
    going = [0, 1]
    while going:
        for row in going:
            again.write(row, say("yes"), own=True)
        replies = recorded.replies(going, again.tokens, again.counts)
        for row, reply in replies.items():
            again.write(row, reply, own=False)
        going = list(replies)
    assert np.array_equal(again.tokens, rows.tokens)
    assert recorded.finish(again.answered()) == outcomes


def test_a_failure_warns_or_ends_the_run() -> None:
    fine, bad = Outcome("answered", reward=1.0), Outcome("failed", "KeyError: 'x'")
    assert problem([fine, fine], policy()) is None
    text = (
        f"spec.objective.policy.reward: {MODULE}:by_reference: 1 of 2 conversations failed; the first one failed: Key"
    )
    assert (problem([fine, bad], policy()) or "").startswith(text)
    for outcomes, spec in (([bad, bad], policy()), ([fine, bad], policy(on_failure="end"))):
        with pytest.raises(TrainerExit, match="conversations failed; the first one failed: KeyError"):
            problem(outcomes, spec)
