"""`make clients`: lm-eval and litellm ask `halcyon serve` as their users do, offline, from an environment of their own.

pytest collects this file only where it is named: the packages are too large for the lock of this repository.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import yaml

from halcyon.inference.likelihood import Likelihoods
from halcyon.inference.spans import Span
from halcyon.serving.limits import Limits
from halcyon.serving.served import Served
from tests.suite.limits import limit
from tests.trainer.serving.running import TEMPLATE, Running, load, running, write_model

pytestmark = pytest.mark.slow

PYTHON = Path(os.environ["HALCYON_CLIENTS"])
"""The interpreter that has the clients."""
CHOICES = {"hello there": [" you", " x y z", " what"], "Colours are": [" red", " a b"]}
QUESTIONS = ("Who?", "What is it?", "Where?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny", template=TEMPLATE)


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Served:
    return load(folder)


@pytest.fixture(scope="module")
def server(tiny: Served) -> Any:
    with running(tiny, Limits(requests=2000, choices=32, body_bytes=20_000)) as found:
        yield found


def called(folder: Path, *words: str | Path) -> str:
    """What a command of the environment prints. It has no network but this machine."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    own = {"HF_HOME": str(folder / "hub"), "OPENAI_API_KEY": "none", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [str(PYTHON), *map(str, words)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | offline | own
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit(300), check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


def evaluated(folder: Path, kind: str, task: dict[str, Any], rows: list[dict[str, Any]], *words: str) -> dict[str, Any]:
    """The results of a task of lm-eval on these rows, and its samples."""
    name = str(task["task"])
    (folder / "rows.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.json")}}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"test_split": "test", **data, **task}))
    called(
        folder, "-m", "lm_eval", "--model", kind, "--tasks", name, "--include_path", folder,
        "--output_path", folder / "out", "--log_samples", *words,
    )  # fmt: skip
    (results,) = (folder / "out").rglob("results_*.json")
    (samples,) = (folder / "out").rglob("samples_*.jsonl")
    found = json.loads(results.read_text())["results"][name]
    return {**found, "samples": [json.loads(line) for line in samples.read_text().splitlines()]}


def test_lm_eval_reads_the_likelihoods_of_the_model(
    tmp_path: Path, server: Running, tiny: Served, folder: Path
) -> None:
    """`local-completions`, with a task of multiple choice."""
    task = {
        "task": "choices",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    encode = tiny.tokenizer.encode
    spans = [
        Span(np.concatenate([encode(question), encode(ending)]).astype(np.int32), len(encode(question)))
        for question, endings in CHOICES.items()
        for ending in endings
    ]
    scores = iter(Likelihoods(tiny.model).scores(spans))
    expected = [[next(scores).log_prob for _ in endings] for endings in CHOICES.values()]
    best = [int(np.argmax(one)) for one in expected]
    rows = [
        {"question": question, "choices": endings, "answer": answer}
        for (question, endings), answer in zip(CHOICES.items(), best, strict=True)
    ]
    arguments = f"base_url={server.url}/v1/completions,model=tiny,tokenizer={folder}"
    found = evaluated(tmp_path, "local-completions", task, rows, "--model_args", arguments)
    assert found["acc,none"] == 1.0
    read = [[float(one[0][0]) for one in sample["resps"]] for sample in found["samples"]]
    for given, wanted in zip(read, expected, strict=True):
        assert given == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("kind", ["local-completions", "local-chat-completions"])
def test_lm_eval_reads_answers(tmp_path: Path, server: Running, folder: Path, kind: str) -> None:
    """One answer of three is not the one of the file."""
    is_chat = kind == "local-chat-completions"
    with server.openai() as client:
        answers = [said(client, question, is_chat=is_chat) for question in QUESTIONS]
    rows = [{"question": question, "answer": answer} for question, answer in zip(QUESTIONS, answers, strict=True)]
    rows[1]["answer"] += " not this"
    task = {
        "task": "answers",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\u0000"], "max_gen_toks": 12, "do_sample": False, "temperature": 0},
        "metric_list": [{"metric": "exact_match"}],
    }
    place = "chat/completions" if is_chat else "completions"
    arguments = f"base_url={server.url}/v1/{place},model=tiny,tokenizer={folder}"
    words = ["--model_args", arguments, *(["--apply_chat_template"] if is_chat else [])]
    found = evaluated(tmp_path, kind, task, rows, *words)
    assert found["exact_match,none"] == pytest.approx(2 / 3)


def said(client: openai.OpenAI, question: str, *, is_chat: bool) -> str:
    """What the model says at temperature 0."""
    if not is_chat:
        return client.completions.create(model="tiny", prompt=question, max_tokens=12, temperature=0).choices[0].text
    asked: Any = [{"role": "user", "content": question}]
    found = client.chat.completions.create(model="tiny", messages=asked, max_tokens=12, temperature=0)
    return found.choices[0].message.content or ""


def test_litellm_gets_texts_streams_and_calls(tmp_path: Path, server: Running) -> None:
    script = Path(__file__).with_name("litellm_calls.py")
    found = json.loads(called(tmp_path, script, f"{server.url}/v1").splitlines()[-1])
    with server.openai() as client:
        assert found["text"] == said(client, "Warm?", is_chat=True)
        assert found["completion"] == said(client, "Warm?", is_chat=False)
    assert found["streamed"] == found["text"]
    assert found["streamed finish"] == [found["finish"]]
    assert found["streamed tokens"] == [found["tokens"]]
    finish, function = found["call"]
    assert finish == "tool_calls"
    assert function["name"] == "weather"
    assert json.loads(function["arguments"]) == {"warm": True}
    assert found["streamed call"] == function
