"""Tasks on tiny models, from files to results, and the command ``halcyon eval``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import halcyon
from halcyon.commands.main import app
from halcyon.evals.benchmarks import BENCHMARKS, read_benchmarks
from halcyon.evals.generation import Answers, Prompts
from halcyon.evals.runner import Runner, Settings
from halcyon.inference import Sampling
from halcyon.inference.sequence import Token
from halcyon.tokenizer.byte import SPECIAL_TOKENS, ByteTokenizer
from halcyon.tokenizer.special import CHAT_MARKS
from tests.trainer.evals import samples
from tests.trainer.weights.folders import GOLDENS

PLACE = f"hf:{GOLDENS / 'qwen3'}"
GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "evaluation.md"


class Scripted:
    """An engine whose answers are given: it continues each request with the tokens of a script after the prompt."""

    def __init__(self, scripts: dict[tuple[int, ...], list[int]], length: int = 200) -> None:
        self.length, self._scripts, self._requests = length, scripts, list[Any]()
        self.submitted: list[list[int]] = []

    @property
    def unfinished(self) -> int:
        return sum(not request.over for request in self._requests)

    def submit(self, prompt: np.ndarray, sampling: Sampling, *, ends: Sequence[int], images: None) -> int:
        tokens = prompt.tolist()
        self.submitted.append(tokens)
        begin = next(given for given in self._scripts if tuple(tokens[: len(given)]) == given)
        self._requests.append(
            SimpleNamespace(begin=begin, text=tokens[len(begin) :], left=sampling.max_tokens, ends=ends, over=False)
        )
        return len(self._requests) - 1

    def cancel(self, number: int) -> None:
        self._requests[number].over = True

    def step(self) -> list[Token]:
        found = []
        for number, request in enumerate(self._requests):
            if request.over:
                continue
            token = self._scripts[request.begin][len(request.text)]
            request.text.append(token)
            request.left -= 1
            finish = "stop" if token in request.ends else "length" if request.left == 0 else None
            request.over = finish is not None
            found.append(Token(number, token, 0.0, (), finish))
        return found


class Marked(ByteTokenizer):
    """The byte tokenizer with the marks of conversations."""

    special_tokens: Mapping[str, int] = {
        **SPECIAL_TOKENS,
        **{mark: 300 + place for place, mark in enumerate(CHAT_MARKS)},
    }

    def decode(self, tokens: np.ndarray) -> str:
        return super().decode(tokens[tokens < 256])


def test_the_calculator_answers_inside_of_an_answer() -> None:
    tokenizer = Marked("marked")
    begin, end, output_begin, output_end = (tokenizer.special_tokens[mark] for mark in CHAT_MARKS[4:])
    prompts = Prompts(tokenizer, SimpleNamespace(ends=(tokenizer.eos_id,)))  # type: ignore[arg-type]

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text).tolist()

    result = [output_begin, *ids("12"), output_end]
    good = [*ids("It is "), begin, *ids("2*6"), end, *result, *ids(" #### 12"), tokenizer.eos_id]
    bad = [begin, *ids("open('x')"), end, *ids("no"), tokenizer.eos_id]
    endless = [*ids("a" * 300)]
    scripts = {(1,): good, (2,): bad, (3,): endless}
    engine = Scripted(scripts)
    questions: Any = [(np.array([number], np.int32), None) for number in (1, 2, 3)]
    questions.append((np.arange(200, dtype=np.int32), None))
    found = Answers(engine, prompts).answers(questions, [Sampling(max_tokens=60, stop=("STOP",))] * 4)  # type: ignore[arg-type]
    assert [text.text for text in found] == ["It is 2*612 #### 12", "open('x')no", "a" * 60, ""]
    assert [text.finish for text in found] == ["stop", "stop", "length", "prompt"]
    assert [1, *good[: good.index(output_end) + 1]] in engine.submitted  # the model goes on after the result
    short = Answers(Scripted(scripts), prompts).answers(questions[:1], [Sampling(max_tokens=len(ids("It is ")) + 6)])  # type: ignore[arg-type]
    assert (short[0].finish, short[0].text) == ("length", "It is 2*6")  # no room for the result
    stopped = Answers(Scripted(scripts), prompts).answers(questions[:1], [Sampling(max_tokens=60, stop=("12 ##",))])  # type: ignore[arg-type]
    assert (stopped[0].finish, stopped[0].text) == ("stop", "It is 2*6")


@pytest.mark.slow
def test_tasks_and_core_from_files_to_results(tmp_path: Path) -> None:
    arguments = [
        *("--task", f"arc-easy={samples.parquet(tmp_path / 'arc.parquet', samples.ARC_HUB)}"),
        *("--task", f"arc-challenge={samples.lines(tmp_path / 'arc.jsonl', samples.ARC_AUTHORS)}"),
        *("--task", f"mmlu={samples.parquet(tmp_path / 'mmlu.parquet', samples.MMLU_HUB)}"),
        *("--task", f"gsm8k={samples.lines(tmp_path / 'gsm8k.jsonl', samples.GSM8K)}"),
        *("--task", f"humaneval={samples.lines(tmp_path / 'HumanEval.jsonl.gz', samples.HUMAN_EVAL)}"),
        *("--task", f"smoltalk={samples.parquet(tmp_path / 'talk.parquet', samples.SMOLTALK)}"),
        *("--core", str(samples.core_bundle(tmp_path / "bundle"))),
        *("--results", str(tmp_path / "results"), "--slots", "2"),
    ]
    done = CliRunner().invoke(app, ["eval", PLACE, *arguments, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    by_name = {result["task"]: result for result in document["tasks"]}
    assert [result["examples"] for result in document["tasks"]] == [2, 1, 1, 1, 1, 1]
    assert set(by_name["arc-easy"]) == {
        "task",
        "examples",
        "accuracy",
        "standardError",
        "baseline",
        "centred",
        "seconds",
    }
    assert by_name["mmlu"]["groups"] == {"elementary_mathematics": by_name["mmlu"]["accuracy"]}
    assert by_name["smoltalk"]["bitsPerByte"] > 0
    centred = [by_name[name]["centred"] for name in ("arc-easy", "arc-challenge", "mmlu", "gsm8k", "humaneval")]
    assert document["chatCore"] == pytest.approx(sum(centred) / 5)
    assert document["core"] == pytest.approx(sum(result["centred"] for result in document["coreTasks"]) / 3)
    kept = {path.name: path.read_text() for path in (tmp_path / "results").iterdir()}
    assert json.loads(kept["results.json"]) == document
    (program,) = [json.loads(line) for line in kept["humaneval.jsonl"].splitlines()]
    assert (program["right"], program["outcome"]) == (False, "failed")
    assert len(kept["core-choice.jsonl"].splitlines()) == 6


@pytest.mark.slow
@pytest.mark.variant
def test_several_answers_give_pass_at_k(tmp_path: Path) -> None:
    arguments = [
        *("--task", f"gsm8k={samples.lines(tmp_path / 'gsm8k.jsonl', samples.GSM8K)}"),
        *("--task", f"humaneval={samples.lines(tmp_path / 'HumanEval.jsonl.gz', samples.HUMAN_EVAL)}"),
        *("--answers", "3", "--temperature", "1", "--results", str(tmp_path / "results"), "--slots", "2", "--json"),
    ]
    done = CliRunner().invoke(app, ["eval", PLACE, *arguments])
    assert done.exit_code == 0, done.output
    for result in json.loads(done.stdout)["tasks"]:
        assert (result["examples"], result["answers"], list(result["passAt"])) == (1, 3, ["1", "2", "3"])
        assert result["passAt"]["1"] == result["accuracy"]
    (answer,) = map(json.loads, (tmp_path / "results" / "gsm8k.jsonl").read_text().splitlines())
    assert len(answer["rights"]) == len(answer["answers"]) == 3
    assert len({one["text"] for one in answer["answers"]}) > 1, "each answer has a seed of its own"


@pytest.mark.slow
@pytest.mark.variant
def test_each_example_alone_has_the_same_answer(tmp_path: Path) -> None:
    samples.core_bundle(tmp_path / "bundle")
    model, tokenizer = halcyon.load(PLACE)
    assert tokenizer is not None
    runner, many = Runner(model, tokenizer, None, Settings(slots=1, batch_tokens=32)), Runner(model, tokenizer)
    for benchmark in read_benchmarks({"core": tmp_path / "bundle"}):
        together, _ = many.run(benchmark)
        alone = [runner.answers(benchmark, [example])[0].is_right for example in benchmark.examples]
        assert sum(map(bool, alone)) / len(alone) == together.accuracy


@pytest.mark.slow
@pytest.mark.variant
def test_a_divided_model_has_the_same_results(tmp_path: Path) -> None:
    samples.core_bundle(tmp_path / "bundle")
    arc = samples.parquet(tmp_path / "arc.parquet", samples.ARC_HUB)
    gsm8k = samples.lines(tmp_path / "gsm8k.jsonl", samples.GSM8K)
    tasks = ("--task", f"arc-easy={arc}", "--task", f"gsm8k={gsm8k}", "--core", str(tmp_path / "bundle"))

    def answers(*options: str) -> list[dict[str, Any]]:
        folder = tmp_path / f"results{len(options)}"
        done = CliRunner().invoke(app, ["eval", PLACE, *tasks, "--results", str(folder), *options])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]

    alone, divided = answers(), answers("--mesh", "tensor=2")
    assert [one.keys() for one in divided] == [one.keys() for one in alone]
    for ours, expected in zip(divided, alone, strict=True):
        for name, value in expected.items():
            assert ours[name] == (pytest.approx(value, rel=1e-5) if name.startswith("logLikelihood") else value), name


def test_bad_arguments_are_refused_before_the_model_is_read(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("bee\n")
    done = CliRunner().invoke(app, ["eval", "hf:/nowhere", "--task", f"spelling-bee={words}", "--keep"])
    assert done.exit_code != 0
    assert "--keep: hf:/nowhere is no checkpoint root" in done.output


def test_programs_are_refused_before_the_model_is_read_where_they_are_not_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halcyon.evals.sandbox import child, running

    monkeypatch.setattr(child, "landlock_version", lambda: 0)
    running.check.cache_clear()
    path = samples.lines(tmp_path / "HumanEval.jsonl.gz", samples.HUMAN_EVAL)
    done = CliRunner().invoke(app, ["eval", "hf:/nowhere", "--task", f"humaneval={path}"])
    assert (done.exit_code, done.output.startswith("model-written programs cannot be run safely on this machine")) == (
        80,
        True,
    )
    running.check.cache_clear()


def test_the_guide_has_every_task() -> None:
    guide = GUIDE.read_text()
    assert not [name for name in BENCHMARKS if f"`{name}`" not in guide]
