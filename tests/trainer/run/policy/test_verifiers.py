"""The example with the library verifiers: a task with a tool, in a process that has the library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halcyon.run.policy import conversations
from halcyon.run.policy.answers import Question
from halcyon.run.policy.environment import Talks
from halcyon.tokenizer.special import OWN_SPECIAL_TOKENS
from halcyon_api.spec.objective import EnvironmentSpec, PolicySpec
from tests.suite.limits import limit
from tests.trainer.data.formats.standin import MarkedBytes
from tests.trainer.run.policy.test_environment import END, TEMPLATE, Alone, Rows

pytestmark = [pytest.mark.slow, pytest.mark.variant]

REPOSITORY = Path(__file__).resolve().parents[4]
LIBRARY = "verifiers==0.4.0"
TOKENIZER: Any = MarkedBytes((*OWN_SPECIAL_TOKENS, "<tool_call>", "</tool_call>"))
MOST = 300


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has the library."""
    folder = tmp_path_factory.mktemp("verifiers")
    python = str(folder / "bin" / "python")
    for command in ([sys.executable, "-m", "venv", str(folder)], [python, "-m", "pip", "install", "--quiet", LIBRARY]):
        subprocess.run(command, check=True, timeout=limit(300))
    return python


def test_tasks_of_verifiers_are_answered_with_their_tool(interpreter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    example = REPOSITORY / "examples" / "environments" / "verifiers"
    monkeypatch.setattr(conversations.sys, "executable", interpreter)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (REPOSITORY / "trainer", REPOSITORY / "crds", example))))
    environment = EnvironmentSpec(arguments={"taskset": "sums"}, timeout_seconds=limit(60))
    spec = PolicySpec(reward="halcyon_verifiers:rollout", max_tokens=MOST, delay_steps=1, environment=environment)
    records = [{"prompt": f"What is 2 + {number}?", "answer": str(2 + number)} for number in (3, 4)]
    asked = [Question(np.array([1], np.int32), json.dumps(record)) for record in records]
    rows = Rows(2, MOST)
    every = Talks(spec, TOKENIZER, [TEMPLATE + "{# <tool_call> #}"], Alone(), "file:///nowhere")
    try:
        with every.of_batch(asked, 1, 200, lambda one: "") as talk:
            shown = [TOKENIZER.show(np.array(tokens)) for tokens in talk.contexts]
            assert shown[1] == "[user_start]user:What is 2 + 4?[user_end]1 tools[assistant_start]"
            for row, number in enumerate((3, 9)):  # the second one adds other numbers
                call = json.dumps({"name": "calculator_add", "arguments": {"a": 2, "b": number}})
                words = [*TOKENIZER.encode(call).tolist(), TOKENIZER.special_tokens["</tool_call>"], END]
                rows.write(row, [TOKENIZER.special_tokens["<tool_call>"], *words], own=True)
            replies = talk([0, 1], rows.tokens, rows.counts)
            assert [TOKENIZER.show(np.array(replies[row])) for row in (0, 1)] == [
                f"[user_start]tool:{value}[user_end]1 tools[assistant_start]" for value in (5, 11)
            ]
            for row, value in enumerate((5, 11)):
                rows.write(row, replies[row], own=False)
                rows.write(row, [*TOKENIZER.encode(str(value)).tolist(), END], own=True)
            assert talk([0, 1], rows.tokens, rows.counts) == {}
            assert talk.finish(rows.answered()) == [("answered", "", 1.0), ("answered", "", 0.0)]
    finally:
        every.close()
