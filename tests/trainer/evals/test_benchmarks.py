"""Tasks read the files that they are published in, and score answers by the published rules."""

from __future__ import annotations

import itertools
import json
import math
import random
import warnings
from pathlib import Path
from typing import Any

import jinja2
import pytest

from halcyon.evals import core
from halcyon.evals.benchmarks import BENCHMARKS, read_benchmarks
from halcyon.evals.core import centred, core_of
from halcyon.evals.example import Answer, GivenReply, MultipleChoice, OpenQuestion
from halcyon.evals.sandbox.running import Program
from halcyon.evals.scores import (
    chat_core_of,
    document_of,
    pass_at_k,
    result_of,
)
from halcyon.evals.tasks import COUNT, final_number, human_eval_program
from halcyon.host.errors import BadConfiguration
from halcyon.inference.calculator import calculate
from halcyon_api.result_documents import TASK_NAMES, TaskResults, results_key, results_step
from tests.trainer.evals import samples


def test_multiple_choice_is_the_same_from_each_published_file(tmp_path: Path) -> None:
    arc = BENCHMARKS["arc-easy"]
    hub, authors = (
        arc.read(samples.parquet(tmp_path / "arc.parquet", samples.ARC_HUB)).examples,
        arc.read(samples.lines(tmp_path / "arc.jsonl", samples.ARC_AUTHORS)).examples,
    )
    one, other = hub[0], authors[0]
    assert isinstance(one, MultipleChoice)
    assert isinstance(other, MultipleChoice)
    assert (
        (one.prompt, one.answers, one.gold) == (other.prompt, other.answers, other.gold) == (one.prompt, ("A", "B"), 0)
    )
    assert "- ice=A\n- rock=B\n" in one.prompt.messages[0]["content"]
    assert (hub[1].answers, hub[1].gold) == (("1", "2", "3"), 2)  # type: ignore[union-attr]
    assert [one.name, other.name] == ["arc.parquet row 1", "arc.jsonl line 1"]

    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu" / "elementary_mathematics_test.csv").write_text(
        '"2 + 2 = ?",3,4,5,6,B\n"two\nlines",a,b,c,d,D\n'
    )
    mmlu = BENCHMARKS["mmlu"]
    (published,) = mmlu.read(samples.parquet(tmp_path / "mmlu.parquet", samples.MMLU_HUB)).examples
    table = mmlu.read(tmp_path / "mmlu").examples
    assert (table[0].prompt, table[0].gold, table[0].group) == (published.prompt, 1, "elementary_mathematics")  # type: ignore[union-attr]
    assert table[1].name == "elementary_mathematics_test.csv line 3"


def test_questions_take_an_answer_with_the_right_number(tmp_path: Path) -> None:
    (word_problem,) = BENCHMARKS["gsm8k"].read(samples.lines(tmp_path / "gsm8k.jsonl", samples.GSM8K)).examples
    assert isinstance(word_problem, OpenQuestion)
    grade = BENCHMARKS["gsm8k"].grade
    assert grade is not None
    assert [
        grade(word_problem, text) for text in ("#### 1012", "so\n#### $1,012.00.", "1012", "#### 1013", "#### ")
    ] == [
        True,
        True,
        False,
        False,
        False,
    ]

    (tmp_path / "words.txt").write_text("strawberry\nbee\n")
    bees = BENCHMARKS["spelling-bee"].read(tmp_path / "words.txt").examples
    assert len(bees) == COUNT
    assert bees == BENCHMARKS["spelling-bee"].read(tmp_path / "words.txt").examples
    for bee in bees:
        assert isinstance(bee, OpenQuestion)
        word, letter = bee.name.partition("(")[2].rstrip(")").split(", ")
        assert grade(bee, f"#### {word.count(letter)}")

    (reply,) = BENCHMARKS["smoltalk"].read(samples.parquet(tmp_path / "talk.parquet", samples.SMOLTALK)).examples
    assert isinstance(reply, GivenReply)
    assert (reply.answer, [message["role"] for message in reply.prompt.messages]) == ("Blue.", ["system", "user"])


@pytest.mark.parametrize(
    "answer",
    [
        "    return sum(numbers)",
        "\n    return sum(numbers)\n",
        "def total(numbers: List[int]) -> int:\n    return sum(numbers)",
        "Here it is:\n```python\ndef total(numbers: List[int]):\n    return sum(numbers)\n```\nDone.",
        "```\n    return sum(numbers)",
    ],
)
def test_a_completed_function_becomes_a_program(tmp_path: Path, answer: str) -> None:
    (example,) = (
        BENCHMARKS["humaneval"].read(samples.lines(tmp_path / "HumanEval.jsonl.gz", samples.HUMAN_EVAL)).examples
    )
    assert isinstance(example, OpenQuestion)
    program = human_eval_program(example, answer)
    assert isinstance(program, Program)
    scope: dict[str, Any] = {}
    exec(program.source, scope)  # noqa: S102 - the text of this test
    exec(program.checks, scope)  # noqa: S102
    assert "List" in scope  # the import above the function
    assert example.prompt.plain.endswith('"""')


@pytest.mark.parametrize(
    ("task", "name", "content", "message"),
    [
        ("arc-easy", "a.jsonl", '{"question": "q"}', "a.jsonl line 1: the row has no field choices; it has question"),
        ("arc-easy", "a.jsonl", "\n[1]", "a.jsonl line 2: the line is no JSON object"),
        ("arc-easy", "a.jsonl", "{", "a.jsonl line 1: the line is no JSON: "),
        ("arc-easy", "a.jsonl", '{"question": "\\ud83d"}', "a.jsonl line 1: the line has half a surrogate pair"),
        (
            "arc-easy",
            "a.jsonl",
            '{"question": "q", "choices": {"text": ["x"], "label": ["A"]}, "answerKey": "E"}',
            "a.jsonl line 1: the field answerKey is E, which is none of A",
        ),
        ("mmlu", "a.csv", "q,1,2,3,4,E\n", "a.csv line 1: the answer is E, which is none of A, B, C, D"),
        ("mmlu", "a.csv", "q,1,2\n", "a.csv line 1: the row has no field 5"),
        (
            "gsm8k",
            "a.jsonl",
            '{"question": "q", "answer": "12"}',
            "a.jsonl line 1: the field answer does not end with #### and a number",
        ),
        (
            "humaneval",
            "a.jsonl",
            '{"task_id": "1", "prompt": "p", "canonical_solution": "s", "test": "t", "entry_point": "f; g"}',
            "a.jsonl line 1: the field entry_point is 'f; g', which is no name of a function",
        ),
        (
            "smoltalk",
            "a.jsonl",
            '{"messages": [{"role": "user", "content": "x"}]}',
            "a.jsonl line 1: after a system message, user and assistant must take turns",
        ),
        ("spelling-bee", "a.txt", "two words\n", "a.txt line 1: 'two words' is no word"),
        ("gsm8k", "a.jsonl", "", "the file has no example of gsm8k"),
        ("gsm8k", "a.parquet", "x", "a.parquet: it is no Parquet file"),
        ("gsm8k", "a.jsonl.gz", "x", "it cannot be read"),
        ("gsm8k", "a.doc", "x", "a task is a file that ends in .jsonl"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, task: str, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadConfiguration) as caught:
        BENCHMARKS[task].read(tmp_path / name)
    assert message in str(caught.value)


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(BadConfiguration, match="no task 'arc'; the tasks are arc-easy, arc-challenge, mmlu"):
        read_benchmarks({"arc": Path("a.jsonl")})


def test_the_calculator_computes_and_nothing_else() -> None:
    assert [
        calculate(one)
        for one in ("12/60", "0.2*50", "1,000 + 24", "-(3 - 5)", "7 // 2", "'strawberry'.count('r')", "2*3 ")
    ] == [
        "0.2",
        "10.0",
        "1024",
        "2",
        "3",
        "3",
        "6",
    ]
    refused = (
        "9**9**9",
        "1/0",
        "__import__('os')",
        "x",
        "'a' * 9999999",
        "(1",
        "1e308*10",
        "'a'.upper()",
        "[1]*9",
        "1 if 2 else 3",
        "",
    )
    with warnings.catch_warnings(action="error"):
        assert [calculate(one) for one in ("1is 1", r"'\d'.count('d')")] == [None, "1"]
    assert [calculate(one) for one in (*refused, "(" * 400, "1+" * 1000 + "1", "99999999*" * 20 + "1")] == [None] * (
        len(refused) + 3
    )


def test_accuracy_has_its_standard_error() -> None:
    answers = [Answer(str(number), number < 3, group="a" if number else "b") for number in range(4)]
    result = result_of("arc-easy", answers, 0.25, 1.0)
    assert (result.accuracy, result.standard_error) == (0.75, math.sqrt(0.75 * 0.25 / 3))
    assert result.groups == {"a": 2 / 3, "b": 1.0}
    assert result.centred == centred(0.75, 0.25) == 2 / 3
    talk = result_of("smoltalk", [Answer("1", None, nats=math.log(2) * 8, size_bytes=4)], None, 1.0)
    assert (talk.accuracy, talk.centred, talk.bits_per_byte) == (None, None, 2.0)
    assert result_of("gsm8k", answers[:1], 0.0, 1.0).standard_error is None
    assert final_number("#### -1,234.5") == final_number("x #### -1234.50")


def test_pass_at_k_is_the_share_of_all_choices_of_k_answers_with_a_right_one() -> None:
    for answers, right in ((5, 0), (5, 2), (4, 4), (1, 1)):
        rights = [place < right for place in range(answers)]
        for k in range(1, answers + 1):
            chosen = [any(some) for some in itertools.combinations(rights, k)]
            assert pass_at_k(answers, right, k) == pytest.approx(sum(chosen) / len(chosen), abs=1e-12)
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k(2, 1, 3)
    several = [Answer("1", True, rights=(True, False, False, True, False)), Answer("2", False, rights=(False,) * 5)]
    result = result_of("humaneval", several, 0.0, 1.0)
    assert (result.accuracy, result.answers, list(result.pass_at)) == (0.2, 5, ["1", "2", "4", "5"])
    assert result.pass_at["5"] == 0.5
    assert result.standard_error == pytest.approx(0.2)  # of the shares 0.4 and 0


def test_the_averages_need_all_their_tasks() -> None:
    names = ("arc-easy", "arc-challenge", "mmlu", "gsm8k", "humaneval", "spelling-bee")
    numbers = [result_of(name, [Answer("1", place % 2 == 0)], 0.0, 1.0) for place, name in enumerate(names)]
    assert chat_core_of(numbers) == 0.5
    assert chat_core_of(numbers[:5]) == 0.6, "SpellingBee may be left out, as in the first form"
    assert chat_core_of(numbers[1:]) is None
    unscored = result_of(names[0], [Answer("1", True)], None, 1.0)
    assert chat_core_of([unscored, *numbers[1:]]) is None, "a task without a centred accuracy is missing"
    of_core = [result_of(f"core/{name}", [Answer("1", name == "a")], 0.0, 1.0) for name in "ab"]
    assert core_of([*numbers, *of_core]) == 0.5
    assert core_of(numbers) is None
    found = document_of(7, "chat", [*numbers, *of_core], [], decides=None, finished=True, now=0.0)
    assert TaskResults.parse(found.model_dump_json(by_alias=True, exclude_none=True).encode()) == found
    assert set(found.numbers) == {*names, "chat-core"}, "two of the 22 tasks are no CORE"
    assert TaskResults.parse(b"{}") is None


def test_the_contract_has_the_names_of_all_tasks() -> None:
    assert tuple(BENCHMARKS) == TASK_NAMES
    assert [results_step(key) for key in (results_key(7), results_key(7, of_command=True), "tasks/notes.txt")] == [
        7,
        7,
        None,
    ]


def test_core_shows_the_published_examples_in_the_published_form(tmp_path: Path) -> None:
    tasks = core.read_bundle(samples.core_bundle(tmp_path))
    assert [(task.name, task.kind, task.shots, task.delimiter, round(task.baseline, 3)) for task in tasks] == [
        ("choice", "multiple_choice", 2, " ", 0.333),
        ("schema", "schema", 0, " ", 0.5),
        ("language", "language_modeling", 3, " ", 0.0),
    ]
    # The published evaluation renders templates of this form; the shots of example n are a sample with the seed 1234 +
    # n.
    template = jinja2.Template(
        "{% for one in shots %}{{ one.query }} {{ one.choices[one.gold] }}\n\n{% endfor %}{{ item.query }} {{ choice }}"
    )
    rows = [json.loads(line) for line in (tmp_path / "eval_data" / "choice.jsonl").read_text().splitlines()]
    random.Random(1337).shuffle(rows)
    found = core.read_examples(tasks[0])
    for number, example in enumerate(found):
        shots = random.Random(1234 + number).sample([other for other in range(len(rows)) if other != number], 2)
        expected = [
            template.render(shots=[rows[shot] for shot in shots], item=rows[number], choice=choice)
            for choice in rows[number]["choices"]
        ]
        assert (list(example.texts), example.gold) == (expected, rows[number]["gold"])
    (first, *_) = core.read_examples(tasks[2], most=4)
    without, whole = first.texts
    assert whole.startswith(without)
    assert whole == whole.strip()
    assert whole.count("Numbers:") == 4
    assert core.read_examples(tasks[1])[0].texts[0].endswith(" sleeps here")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "dataset_uri: choice.jsonl",
            "dataset_uri: ../choice.jsonl",
            "the task choice has no dataset_uri inside of eval_data",
        ),
        (
            "icl_task_type: schema",
            "icl_task_type: other",
            "the task schema has icl_task_type other; it can be multiple_choice",
        ),
        ("num_fewshot: [2]", "num_fewshot: [6]", "6 rows are too few for 6 solved examples"),
        ("label: schema", "label: unknown", "the task unknown has no row in eval_meta_data.csv"),
        ("icl_tasks", "tasks", "it has no list icl_tasks"),
    ],
)
def test_a_bad_bundle_is_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    bundle = samples.core_bundle(tmp_path)
    path = bundle / "core.yaml"
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(BadConfiguration) as caught:
        [core.read_examples(task) for task in core.read_bundle(bundle)]
    assert message in str(caught.value)


@pytest.mark.parametrize("percent", ["", "many", "nan", "100", "-1"])
def test_a_baseline_that_no_accuracy_is_above_is_rejected(tmp_path: Path, percent: str) -> None:
    bundle = samples.core_bundle(tmp_path)
    path = bundle / "eval_meta_data.csv"
    head, first, *others = path.read_text().splitlines()
    place = head.split(",").index("Random baseline")
    path.write_text(
        "\n".join([head, ",".join([*first.split(",")[:place], percent, *first.split(",")[place + 1 :]]), *others])
    )
    with pytest.raises(BadConfiguration, match="the random baseline of choice is no number from 0 to less than 100"):
        core.read_bundle(bundle)


def test_a_folder_without_a_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"it has no file core\.yaml; give the folder of the bundle"):
        core.read_bundle(tmp_path / "nowhere")
