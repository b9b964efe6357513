"""The guide about forms of data: each row in it is recognised, each document is valid, and each form trains from a file
to an export.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from halcyon.data.forms.form import named_form, of_first_row
from halcyon.data.forms.messages import conversation_of, pair_of
from halcyon_api.spec.sources import DataSourceSpec, FormatSpec
from tests.examples.documents import REPOSITORY, shown_documents
from tests.suite.limits import limit
from tests.trainer.weights.folders import llama_tensors, write_folder

GUIDE = "docs/guides/data-forms.md"
TEXT = (REPOSITORY / GUIDE).read_text(encoding="utf-8")
ROWS = [
    [json.loads(row) for row in block.splitlines()]
    for block in re.findall(r"^```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
]
DOCUMENT = re.findall(r"^```yaml\n(apiVersion.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[0]
CHATML = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message['role'] + '\n' -}}{%- if message['role'] == "
    "'assistant' -%}{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}{{- '\n' -}}{%- "
    "else -%}{{- message['content'] + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{- "
    "'<|im_start|>assistant\n' -}}{%- endif -%}"
)
LABEL = {"label": True}


def spec(kind: str) -> FormatSpec:
    return FormatSpec.model_validate({kind: {}})


def test_the_rows_of_the_guide_are_recognised() -> None:
    chats, labels, pairs = ROWS
    names = [of_first_row(spec("chat"), row).name for row in chats]
    assert names == ["messages", "ShareGPT", "Alpaca", "Alpaca", "prompt and completion", "question and answer"]
    for row in chats:
        messages = conversation_of(of_first_row(spec("chat"), row), row).messages
        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert messages[-1]["content"] == "42"
    form = of_first_row(spec("chat"), labels[0])
    assert [bool(conversation_of(form, row).messages) for row in labels] == [True, False]
    assert str(form) == "prompt and completion with labels (KTO): prompt, completion, label"
    for row in pairs:
        pair = pair_of(of_first_row(spec("preference"), row), row)
        assert (pair.chosen[-1]["content"], pair.rejected[-1]["content"]) == ("42", "Fish.")
        assert pair.chosen[:-1] == pair.rejected[:-1] != []


def test_the_fields_of_the_tables_are_those_of_the_forms() -> None:
    """Each row of a table begins with fields that make a row of its form."""
    cells = re.findall(r"^\| [A-Za-z][^|]*\| (`[^|]*) \| [^|]* \|$", TEXT, re.MULTILINE)
    assert len(cells) == 6
    for cell in cells:
        fields = re.findall(r"`([a-z_]+)`", re.split("[:;]", re.sub(r"\(.*?\)", "", cell))[0])
        of_first_row(spec("chat"), dict.fromkeys(fields, ""))


def test_the_sources_of_the_guide_are_valid() -> None:
    fragments = [found for where, found in shown_documents() if where.startswith(GUIDE) and "apiVersion" not in found]
    sources = [source for found in fragments if "data" in found for source in found["data"]["sources"]]
    assert [DataSourceSpec.model_validate(source).kind for source in sources] == [
        "jsonl",
        "csv",
        "jsonl",
        "parquet",
        "parquet",
        "jsonl",
        "parquet",
    ]
    (named,) = [found["format"] for found in fragments if "format" in found]
    form = named_form(FormatSpec.model_validate(named))
    assert form is not None
    assert form.needed == ("dialogue", "functions")


def test_the_document_is_short() -> None:
    assert len(DOCUMENT.splitlines()) <= 25


def base(folder: Path) -> Path:
    """A published model in small: a Llama, and a byte-level tokenizer with the marks of ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={text: number for number, text in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens(special)
    random, tensors = np.random.default_rng(0), llama_tensors()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        width = tensors[name].shape[1]
        tensors[name] = random.standard_normal((256 + len(special), width)).astype(np.float32)
    write_folder(
        folder, tensors, vocab_size=256 + len(special), max_position_embeddings=256, bos_token_id=256, eos_token_id=256
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHATML)
    tokens = {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **tokens}))
    return folder


QUESTIONS = [(f"What is the capital of land {number}?", f"City, {number}.\nTrue.") for number in range(24)]


def share_gpt(folder: Path) -> dict[str, Any]:
    rows = [
        {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]}
        for asked, said in QUESTIONS
    ]
    (folder / "talks.json").write_text(json.dumps(rows, indent=1))
    return {"jsonl": {"paths": [f"{folder}/talks.json"]}}


def alpaca(folder: Path) -> dict[str, Any]:
    rows = [{"instruction": asked, "input": "", "output": said} for asked, said in QUESTIONS]
    (folder / "alpaca.jsonl").write_text("".join(json.dumps(row) + "\r\n" for row in rows))
    return {"jsonl": {"paths": [f"{folder}/alpaca.jsonl"]}}


def table(folder: Path) -> dict[str, Any]:
    with (folder / "questions.csv").open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream).writerows(
            [("id", "prompt", "completion"), *((number, *row) for number, row in enumerate(QUESTIONS))]
        )
    return {"csv": {"paths": [f"{folder}/*.csv"]}}


def pairs(folder: Path) -> dict[str, Any]:
    rows = [{"prompt": asked, "chosen": said, "rejected": "No."} for asked, said in QUESTIONS]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"jsonl": {"paths": [f"{folder}/pairs.jsonl"]}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "kind", "form"),
    [
        pytest.param(alpaca, "chat", "Alpaca: instruction, input, output", marks=pytest.mark.variant),
        (table, "chat", "prompt and completion: prompt, completion"),
        (pairs, "preference", "pairs with a prompt: prompt, chosen, rejected"),
    ],
    ids=["Alpaca", "CSV", "pairs"],
)
def test_each_form_trains_from_a_file_to_an_export(
    tmp_path: Path, write: Callable[[Path], dict[str, Any]], kind: str, form: str
) -> None:
    """With the document of the guide; the template is that of the folder. tests/walks trains on ShareGPT."""
    folder = base(tmp_path / "base")
    source = {"name": "talks", **write(tmp_path), "format": {kind: {}}}
    (tmp_path / "run.yaml").write_text(DOCUMENT)
    changes: dict[str, Any] = {
        "spec.model.configFile": str(folder),
        "spec.tokenizer.tokenizerJson.path": str(folder),
        "spec.from.huggingFace.path": str(folder),
        "spec.data.sources": [source],
        "spec.data.cache": {"workers": 1},
        "spec.objective": {"finetune": {}} if kind == "chat" else {"preference": {"dpo": {}}},
        "spec.trainer": {"steps": 3, "batchSize": 4, "sequenceLength": 256},
        "spec.optimizer.schedule": {"constant": {}},
        "spec.checkpoint.root": f"file://{tmp_path}/root",
        "spec.checkpoint.save.everySteps": 3,
        "spec.export.everySteps": 3,
    }
    settings = [part for name, value in changes.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    command = [sys.executable, "-m", "halcyon.commands.main", "train", "run.yaml", "--json", *settings]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=limit(300), check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [event["form"] for event in events if event["event"] == "source"] == [form]
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3]
    exported = tmp_path / "root" / "exports" / "step-3"
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= {
        path.name for path in exported.iterdir()
    }
