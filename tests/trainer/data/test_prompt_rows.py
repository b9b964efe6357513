"""The rows of the objective `policy`: each step has whole groups in the order of the data set; a prompt that is too
long is rejected, or left out; a reference is the row's own text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from halcyon.data.batch_schedule import BatchSchedule
from halcyon.data.dataset import Dataset
from halcyon.host.errors import BadConfiguration
from halcyon.run.policy.answers import Question, prompted, questions
from halcyon_api.training_run import TrainingRunSpec
from tests.trainer.support.datasets import open_dataset

TEMPLATE = "{{ messages[0]['content'] }}"


def opened(
    folder: Path,
    rows: list[Any],
    *,
    length: int = 24,
    most: int = 8,
    batch: int = 6,
    tokenizer: Any = None,
    **source: Any,
) -> Dataset:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    form = {"prompt": {"field": "question", "referenceField": "answer", "template": TEMPLATE}}
    spec = {
        "accelerator": {"type": "cpu"},
        "model": {"family": "llama"},
        "tokenizer": tokenizer or {"byte": {}},
        "data": {
            "sources": [{"name": "sums", "jsonl": {"paths": [str(path)]}, "format": form, **source}],
            "validation": {"fraction": 0.2},
            "cache": {"workers": 1},
        },
        "objective": {"policy": {"reward": "gsm8k", "groupSize": 3, "maxTokens": most}},
        "trainer": {"steps": 4, "batchSize": batch, "sequenceLength": length},
        "checkpoint": {"root": f"file://{folder / 'root'}"},
    }
    return open_dataset(TrainingRunSpec.model_validate(spec))


def test_steps_have_whole_groups_of_prompts_with_whole_references(tmp_path: Path) -> None:
    rows = [
        {"question": f"{number}+1?", "answer": f"{number} and one make " + "#" * 40 + f" {number + 1}"}
        for number in range(10)
    ]
    data = opened(tmp_path, rows)
    assert (sum(source.used for source in data.sources), data.validation_sequences) == (8, 2)
    seen: list[str] = []
    for step in range(4):
        all_rows = data.train_rows(step)
        assert len(all_rows) == 6
        assert all_rows.part.tolist() == [0, 1, 2] * 2
        assert (np.diff(all_rows.sequence.reshape(2, 3), axis=1) == 0).all()
        for one in questions(data, all_rows[::3]):
            text = data.tokenizer.decode(one.tokens)
            assert {"question": text, "answer": one.reference} in rows  # longer than a row of the batch
            seen.append(text)
    assert len(set(seen)) == 8  # four steps of two prompts are one epoch
    assert data.schedule.positions_before(4) == 8
    (validation,) = data.validation_batches(None, 4)
    assert {data.tokenizer.decode(one.tokens) for one in questions(data, validation)}.isdisjoint(seen)


def test_a_prompt_without_room_for_its_answer_is_rejected(tmp_path: Path) -> None:
    rows = [{"question": "1+1?", "answer": "2"}, {"question": "x" * 17, "answer": "2"}]
    with pytest.raises(BadConfiguration) as found:
        opened(tmp_path, rows)
    assert "spec.data.sources[sums]: the prompt of row 1 (counted from 0) of " in str(found.value)
    assert "has 17 tokens, and spec.trainer.sequenceLength leaves 16 beside an answer of 8; raise it to 25" in str(
        found.value
    )


LONG = [{"question": "x" * 17 if number % 4 == 1 else f"{number}?", "answer": str(number)} for number in range(16)]


def test_a_prompt_without_room_is_left_out_if_bad_rows_are(tmp_path: Path) -> None:
    data = opened(tmp_path, LONG, onBadRow="skip", maxSkipped=0.25)
    (source,) = data.sources
    assert source.layout.report.loss == (
        "4 of 16 prompts left out (68 tokens, 70.1% of all), because they leave no room for an answer; raise "
        "spec.trainer.sequenceLength to keep them"
    )
    found = [one for step in range(4) for one in questions(data, data.train_rows(step)[::3])]
    assert {one.reference for one in found} <= {str(number) for number in range(16) if number % 4 != 1}
    assert all(data.tokenizer.decode(one.tokens) == f"{one.reference}?" for one in found)
    with pytest.raises(BadConfiguration, match=r"4 of 16 rows cannot be used, more than the share of maxSkipped: the "):
        opened(tmp_path, LONG, onBadRow="skip", maxSkipped=0.24)


def test_a_reference_is_the_rows_own_text(tmp_path: Path) -> None:
    """Although the tokenizer changes letters, and knows the special token that the reference spells."""
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    made.normalizer, made.decoder = normalizers.NFKC(), decoders.ByteLevel()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(tmp_path / "tokenizer.json"))
    answers = ["cafe\u0301 \uf90a  two \n tail ", "<|endoftext|> \u2581 x", " lead", ["a  = 1"], {"b": 1, "a": 2}]
    rows = [{"question": str(n), "answer": one} for n, one in enumerate(answers * 2)]
    data = opened(tmp_path, rows, tokenizer={"tokenizerJson": {"path": str(tmp_path)}})
    (validation,) = data.validation_batches(None, 99)
    steps = (data.train_rows(step)[::3] for step in range(4))
    found = {
        data.tokenizer.decode(one.tokens): one.reference
        for some in (validation, *steps)
        for one in questions(data, some)
    }
    wanted = [one if isinstance(one, str) else json.dumps(one, separators=(",", ":")) for one in answers]
    assert found == {str(number): reference for number, reference in enumerate(wanted * 2)}


def test_a_sequence_is_repeated_in_the_rows_of_a_step() -> None:
    schedule = BatchSchedule(steps=5, batch_size=4, sequence_length=8, repeats=2)
    assert [schedule.positions(step)[0].tolist() for step in (0, 1)] == [[0, 0, 1, 1], [2, 2, 3, 3]]
    assert [schedule.tokens_before(step) for step in (1, 5)] == [32, 160]


def test_rows_of_a_call_are_groups() -> None:
    found = prompted([Question(np.array([5, 6], np.int32), ""), Question(np.array([7], np.int32), "")], 2, 3, first=4)
    assert found.tokens.tolist() == [[5, 6, 0]] * 2 + [[7, 0, 0]] * 2
    assert (found.counts.tolist(), found.prompts.tolist(), found.answers.tolist()) == (
        [2, 2, 1, 1],
        [4, 4, 5, 5],
        [0, 1, 0, 1],
    )
