"""A cache must have been built from the sources that the run names; else the run is rejected with the difference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from halcyon.data.open import ensure_caches
from halcyon.errors import BadConfiguration, DamagedData, RootUnusable
from tests.trainer.data.cache.runs import jsonl, spec_of, write_jsonl


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = write_jsonl(tmp_path / "c.jsonl", 50)
    ensure_caches(spec_of(f"file://{tmp_path}/root", [jsonl(path)]), process="first")
    return path


def again(corpus: Path, **more: Any) -> None:
    ensure_caches(
        spec_of(f"file://{corpus.parent}/root", [jsonl(corpus, **more.pop("source", {}))], **more), process="second"
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"tokenizer": {"bpe": {"vocabSize": 512}}}, "another tokenizer;"),
        ({"source": {"rows": {"start": 1}}}, "another rows;"),
        ({"source": {"format": {"text": {"field": "number"}}}}, "another format;"),
    ],
)
def test_another_identity_is_refused(corpus: Path, change: dict[str, Any], what: str) -> None:
    with pytest.raises(
        BadConfiguration, match=r"^spec\.data\.sources\[web\]: its token cache was built with "
    ) as error:
        again(corpus, **change)
    assert what in str(error.value)
    assert "set it back to go on, or train the change as a branch: halcyon train run.yaml --branch NAME" in str(
        error.value
    )


def test_a_changed_file_is_refused_by_name(corpus: Path) -> None:
    corpus.write_text(corpus.read_text().replace("w1", "x1"))
    with pytest.raises(BadConfiguration, match=rf"{corpus} was written again, since its token cache was built"):
        again(corpus)


def test_a_longer_file_is_refused(corpus: Path) -> None:
    with corpus.open("a") as stream:
        stream.write("\n")
    with pytest.raises(BadConfiguration, match=r"c\.jsonl has changed \(\d+ bytes then, \d+ now\)"):
        again(corpus)


def test_a_copy_with_another_time_is_the_same_file(corpus: Path) -> None:
    os.utime(corpus, (1, 1))
    again(corpus)


def test_weight_layout_and_held_out_part_need_no_other_cache(corpus: Path) -> None:
    again(corpus, source={"weight": 3, "layout": {"pack": {}}, "validation": {"fraction": 0.5}})


def test_a_damaged_ledger_is_reported(corpus: Path) -> None:
    ledger = corpus.parent / "root" / "data" / "web" / "LEDGER.json"
    ledger.write_text(ledger.read_text()[:-20])
    with pytest.raises(DamagedData, match=r"LEDGER\.json cannot be read"):
        again(corpus)


def test_a_root_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file where a folder should be")
    corpus = write_jsonl(tmp_path / "c.jsonl", 5)
    with pytest.raises((RootUnusable, BadConfiguration), match=r"root"):
        ensure_caches(spec_of(f"file://{tmp_path}/root", [jsonl(corpus)]), process="p")
