"""`halcyon validate` reads the template, its marks and the first row of conversations, and builds nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from halcyon.commands.main import app
from halcyon.tokenizer.bpe import train_bpe
from halcyon_api.ends import ExitCode
from tests.families import llama

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
TALK = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def validated(folder: Path, template: Any = None, row: Any = TALK, *, own: bool = False) -> tuple[int, str]:
    """Exit code and messages of ``halcyon validate``."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "tokenizer.json").write_bytes(train_bpe(["a b"], 300, ("<|im_start|>", "<|im_end|>")).content)
    (folder / "rows.jsonl").write_text(json.dumps(row))
    chat = {} if template is None else {"template": template}
    document = {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "talk"},
        "spec": {
            "accelerator": {"type": "cpu"},
            "model": llama(1, 16, 16, 1),
            "tokenizer": {"bpe": {"vocabSize": 1024}} if own else {"tokenizerJson": {"path": str(folder / "model")}},
            "data": {
                "sources": [
                    {"name": "talk", "jsonl": {"paths": [str(folder / "rows.jsonl")]}, "format": {"chat": chat}}
                ]
            },
            "objective": {"finetune": {}},
            "trainer": {"steps": 1, "batchSize": 1, "sequenceLength": 16},
            "checkpoint": {"root": f"file://{folder / 'root'}"},
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(document))
    done = CliRunner().invoke(app, ["validate", str(folder / "run.yaml")])
    assert not (folder / "root").exists(), "nothing is built"
    return done.exit_code, done.stderr


def test_a_good_document_has_no_note(tmp_path: Path) -> None:
    assert validated(tmp_path, own=True) == (0, "")
    marked = "{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}"
    assert validated(tmp_path, marked) == (0, "")


@pytest.mark.parametrize(
    ("template", "note"),
    [
        (CHATML, "it has no {% generation %} block, so what the assistant says is found by rendering"),
        (
            "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>{% endfor %}",
            "<|im_end|>, which ends the assistant's turn, stands outside of {% generation %}, so the model does not "
            "learn to stop",
        ),
        ("{{ strftime_now('%Y') }}" + CHATML, "it prints a date, and a training prints 2026-01-01; set"),
    ],
    ids=["found", "outside", "date"],
)
def test_what_a_user_should_know_of_a_template_is_a_note(tmp_path: Path, template: str, note: str) -> None:
    code, text = validated(tmp_path, template)
    assert code == 0
    assert f"note: spec.data.sources[talk].format.chat.template: {note}" in text


def test_the_template_beside_the_tokenizer_is_checked(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "chat_template.jinja").write_text(CHATML)
    assert "found by rendering" in validated(tmp_path)[1]
    (tmp_path / "model" / "chat_template.jinja").write_text("{% if %}")
    code, text = validated(tmp_path)
    assert code == ExitCode.BAD_CONFIGURATION
    assert "format.chat.template: line 1 is not valid Jinja" in text


@pytest.mark.parametrize(
    ("template", "row", "sentence"),
    [
        ("{{ messages[0].content }}", TALK, "prints nothing of what the assistant says"),
        (CHATML, {"messages": [{"role": "user", "content": "a"}]}, "row 0 (counted from 0) of"),
        (CHATML, {"messages": [{"role": "assistant", "content": 7}]}, "does not fit the template"),
    ],
    ids=["template", "no answer", "content"],
)
def test_a_template_or_a_row_that_cannot_be_used_is_a_problem(
    tmp_path: Path, template: str, row: Any, sentence: str
) -> None:
    code, text = validated(tmp_path, template, row)
    assert code == ExitCode.BAD_CONFIGURATION
    assert sentence in text
