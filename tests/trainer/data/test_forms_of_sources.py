"""Sources of each kind and form become the same documents, and the commands and the log say which form was
recognised.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet
from typer.testing import CliRunner

from halcyon.commands.data import app
from halcyon.commands.main import app as main_app
from halcyon.data.cache.ledger import Ledger
from halcyon.data.cache.work import Job, Worker
from halcyon.data.dataset import Dataset
from halcyon.data.forms.form import of_first_row
from halcyon.data.open import inspect_dataset
from halcyon.data.sources import Access, list_files, pieces
from halcyon.host.errors import BadConfiguration
from halcyon.run.data import report_warnings
from halcyon.tokenizer import BYTE
from halcyon_api.reading import load_run
from tests.families import TINIEST
from tests.trainer.data.corpus import at

WORDS = [f"w{number * number}x{number * 7}" for number in range(400)]
QUESTIONS = [
    (f"Why {' '.join(WORDS[n : n + 4])}?", f'Because, "{" ".join(WORDS[9 * n : 9 * n + 9])}".\nSo.') for n in range(40)
]
TALKS = [
    {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
    for asked, said in QUESTIONS
]
FORMS: dict[str, list[dict[str, Any]]] = {
    "messages": TALKS,
    "ShareGPT": [
        {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]}
        for asked, said in QUESTIONS
    ],
    "Alpaca": [{"instruction": asked, "input": "", "output": said} for asked, said in QUESTIONS],
    "prompt and completion": [{"prompt": asked, "completion": said} for asked, said in QUESTIONS],
    "question and answer": [{"question": asked, "answer": said} for asked, said in QUESTIONS],
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    kind = path.suffix[1:]
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif kind in ("csv", "tsv"):
        text = io.StringIO(newline="")
        cells = [
            {name: cell if isinstance(cell, str) else json.dumps(cell) for name, cell in row.items()} for row in rows
        ]
        writer = csv.DictWriter(text, list(rows[0]), delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(cells)
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
    else:
        path.write_text(json.dumps(rows) if kind == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(
    tmp_path: Path,
    file: Path,
    form: dict[str, Any],
    *,
    objective: str = "finetune",
    kind: str | None = None,
    tokenizer: dict[str, Any] | None = None,
) -> Path:
    """A run document of one source.

    Its tokenizer is trained on the source, so equal tokens mean equal texts for the training too.
    """
    kind = kind or {".json": "jsonl"}.get(file.suffix, file.suffix[1:])
    document: dict[str, Any] = {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "forms"},
        "spec": {
            "accelerator": {"type": "cpu"},
            "tokenizer": tokenizer or {"bpe": {"vocabSize": 512}},
            "model": TINIEST,
            "data": {
                "sources": [{"name": "talks", kind: {"paths": [str(file)]}, "format": form}],
                "validation": {"fraction": 0},
                "cache": {"workers": 1},
            },
            "objective": {objective: {"simpo": {}} if objective == "preference" else {}},
            "trainer": {"steps": 2, "batchSize": 2, "sequenceLength": 256},
            "checkpoint": {"root": f"file://{tmp_path}/root-{file.name}"},
        },
    }
    path = tmp_path / f"{file.name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def opened(path: Path) -> tuple[Dataset, Mapping[str, Ledger]]:
    dataset, caches = inspect_dataset(load_run(path).spec, process="test")
    return dataset, caches.ledgers


def look(*arguments: str | Path, code: int = 0) -> str:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == code, found.output
    return found.output


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv", "tsv"])
def test_each_kind_and_form_gives_the_tokens_of_messages(tmp_path: Path, kind: str, form: str) -> None:
    wanted, _ = opened(run(tmp_path, write(tmp_path / "wanted.jsonl", TALKS), {"chat": {}}))
    dataset, ledgers = opened(run(tmp_path, write(tmp_path / f"rows.{kind}", FORMS[form]), {"chat": {}}))
    assert str(ledgers["talks"].form).startswith(f"{form}: ")
    rows = np.arange(sum(source.used for source in wanted.sources))
    for name in ("tokens", "targets", "weights", "segments"):
        np.testing.assert_array_equal(getattr(at(dataset, rows), name), getattr(at(wanted, rows), name))


LABELLED = [
    {"prompt": asked, "completion": said, "label": number % 3 > 0} for number, (asked, said) in enumerate(QUESTIONS)
]


PLAIN = (
    "{% for m in messages %}({{ m.role }}){% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% "
    "endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_answers_with_a_false_label_are_left_out_and_counted(tmp_path: Path, kind: str) -> None:
    path = run(
        tmp_path, write(tmp_path / f"rows.{kind}", LABELLED), {"chat": {"template": PLAIN}}, tokenizer={"byte": {}}
    )
    good = [talk for number, talk in enumerate(TALKS) if number % 3]
    wanted, _ = opened(
        run(tmp_path, write(tmp_path / "wanted.jsonl", good), {"chat": {"template": PLAIN}}, tokenizer={"byte": {}})
    )
    dataset, ledgers = opened(path)
    np.testing.assert_array_equal(at(dataset, np.arange(5)).tokens, at(wanted, np.arange(5)).tokens)
    ledger = ledgers["talks"]
    assert (
        ledger.counts.rows,
        ledger.counts.rejected_rows,
        ledger.counts.documents,
        sum(shard.empty_rows for shard in ledger.shards),
    ) == (
        40,
        14,
        26,
        0,
    )
    sentence = (
        "source talks has the form prompt and completion with labels (KTO): prompt, completion, label; 14 of 40 rows "
        "left out, because the label is false"
    )
    for command in ("build", "stats", "show"):
        assert sentence in look(command, path)
    assert " ".join(["label", "false"]) in look("build", path)


def test_rows_whose_labels_are_all_false_leave_nothing_to_learn(tmp_path: Path) -> None:
    rows = [row | {"label": False} for row in LABELLED]
    with pytest.raises(
        BadConfiguration,
        match=r"sources\[talks\]: the label of each row is false, so there is no answer to learn; give rows",
    ):
        opened(run(tmp_path, write(tmp_path / "rows.jsonl", rows), {"chat": {}}))


def test_pairs_of_texts_are_those_of_conversations(tmp_path: Path) -> None:
    texts = [{"prompt": asked, "chosen": said, "rejected": "No."} for asked, said in QUESTIONS]
    bad = [{"messages": [talk["messages"][0], {"role": "assistant", "content": "No."}]} for talk in TALKS]
    whole = [
        {"chosen": talk["messages"], "rejected": other["messages"]} for talk, other in zip(TALKS, bad, strict=True)
    ]
    found = [
        at(
            opened(
                run(
                    tmp_path,
                    write(tmp_path / name, rows),
                    {"preference": {"template": PLAIN}},
                    objective="preference",
                    tokenizer={"byte": {}},
                )
            )[0],
            np.arange(30),
        )
        for name, rows in (("whole.jsonl", whole), ("texts.csv", texts))
    ]
    np.testing.assert_array_equal(found[0].tokens, found[1].tokens)
    np.testing.assert_array_equal(found[0].weights, found[1].weights)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_row_of_another_form_is_named_with_its_file(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / f"a.{kind}", FORMS["ShareGPT"])
    write(folder / f"b.{kind}", FORMS["Alpaca"])
    with pytest.raises(BadConfiguration) as refused:
        opened(run(tmp_path, folder, {"chat": {}}, kind=kind))
    assert str(refused.value) == (
        f"spec.data.sources[talks].format.chat.messagesField: row 0 (counted from 0) of {folder}/b.{kind} has no field "
        "'conversations', only instruction, input, output; the form of the source is ShareGPT: conversations; name the "
        "field, fix the row, or put rows of another form into a source of their own"
    )


def test_a_first_row_of_no_form_is_named_before_anything_is_built(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"body": "x", "title": "y"}])
    with pytest.raises(BadConfiguration) as refused:
        opened(run(tmp_path, file, {"chat": {}}))
    assert str(refused.value).startswith(
        f"spec.data.sources[talks].format.chat: row 0 (counted from 0) of {file} has no field 'messages', only body, "
        "title, and no other known form of a conversation; name the field in messagesField, or give rows with one of "
        "these: messages; conversations (ShareGPT); "
    )
    (tmp_path / "rows.csv").write_text("title,body\ny,x\n")
    with pytest.raises(
        BadConfiguration,
        match=r"sources\[talks\]\.csv: .*rows\.csv has no field 'messages', only title, body, and no other",
    ):
        opened(run(tmp_path, tmp_path / "rows.csv", {"chat": {}}))


def test_a_build_that_continues_keeps_the_form_of_the_first_row(tmp_path: Path) -> None:
    """The rows after the first shard would be unlabelled by themselves."""
    rows = [LABELLED[1], *(row | {"label": "no truth value"} for row in LABELLED[2:])]
    path = run(
        tmp_path, write(tmp_path / "rows.jsonl", LABELLED), {"chat": {"template": PLAIN}}, tokenizer={"byte": {}}
    )
    spec = load_run(path).spec
    (source,) = spec.data.sources
    worker = Worker(
        Job(
            BYTE,
            source.format,
            "spec.data.sources[talks]",
            Access(),
            (),
            "uint16",
            "uint8",
            of_first_row(source.format, rows[0]),
        )
    )
    write(tmp_path / "rows.jsonl", rows[1:])
    (piece,) = pieces(source, list_files(source, Access()), Access())
    with pytest.raises(
        BadConfiguration, match="has a text in the field 'label', which is the label of an answer in the first row"
    ):
        list(worker(piece))


def test_token_ids_need_lists(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("tokens\n1 2 3\n")
    with pytest.raises(
        BadConfiguration, match=r"prebuilt\.tokensField: row 0 .* has a field 'tokens' that is no list of whole numbers"
    ):
        opened(run(tmp_path, tmp_path / "rows.csv", {"prebuilt": {}}, objective="nextToken", tokenizer={"byte": {}}))


TEMPLATE = (
    "{% for m in messages %}<|user_start|><|user_end|>{{ m.content }}{% if m.role == 'assistant' %}{% generation "
    "%}<|python_start|><|python_end|><|assistant_end|>{% endgeneration %}{% endif %}{% endfor %}"
)


def test_show_prints_every_special_token_and_marks_what_counts(tmp_path: Path) -> None:
    """Also special tokens next to each other, at the begin of a row, and those whose spelling is a text of the row."""
    talk = [{"role": "user", "content": "a<|user_end|>"}, {"role": "assistant", "content": "b"}]
    path = run(tmp_path, write(tmp_path / "rows.jsonl", [{"messages": talk}] * 4), {"chat": {"template": TEMPLATE}})
    shown = look("show", path, "--rows", "0")
    one = "<|user_start|><|user_end|>a<|user_end|><|user_start|><|user_end|>b⟦<|python_start|><|python_end|><|assistant_end|>⟧"
    assert re.search(rf"((<\|bos\|>)?{re.escape(one)}){{4}}", shown)
    assert "⟦…⟧ is around what counts in the loss" in shown
    assert "source talks has the form messages: messages" in shown


def test_rows_given_as_text_are_warned_of(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv", FORMS["prompt and completion"])
    path = run(tmp_path, file, {"text": {}}, objective="nextToken", kind="text")
    sentence = (
        f"warning: spec.data.sources[talks].text: {file} looks like a file of rows, and text takes a whole file, with "
        "all its marks, as one document; write csv: {paths: …} to read its rows"
    )
    for command in ("build", "stats", "show"):
        assert sentence in look(command, path)
    assert sentence in CliRunner().invoke(main_app, ["validate", str(path)]).output


def test_what_a_user_should_know_of_a_template_is_a_warning(tmp_path: Path) -> None:
    template = TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = run(tmp_path, write(tmp_path / "rows.jsonl", [{"messages": talk}] * 4), {"chat": {"template": template}})
    sentence = "spec.data.sources[talks].format.chat.template: it has no {% generation %} block, so"
    for command in ("build", "stats", "show"):
        assert f"warning: {sentence}" in look(command, path)
    reporter, spec = Mock(), load_run(path).spec
    report_warnings(reporter, spec, inspect_dataset(spec, process="test")[1])
    assert any(call.args[0].startswith(sentence) for call in reporter.warning.call_args_list)
