"""A cache must have been built from the sources that the run names. Else it is built again as long as no checkpoint may
depend on it; then the run is rejected with the difference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from halcyon.data.cache.ensure import Caches
from halcyon.host.errors import BadConfiguration, DamagedData, RootUnusable
from halcyon_api.checkpoint_documents import HEAD_KEY, CommittedStep, Epoch, Head, Owner, encode_head
from tests.trainer.data.cache.runs import files_below, jsonl, spec_of, write_jsonl
from tests.trainer.support.datasets import ensure_caches

BPE: dict[str, Any] = {"tokenizer": {"bpe": {"vocabSize": 512}}}
WAYS_OUT = (
    "set it back to go on, or begin again with halcyon train --fresh, or train the change as a branch: halcyon train "
    "run.yaml --branch NAME (in a cluster: a new run with spec.from)"
)


@pytest.fixture
def looked_at(tmp_path: Path) -> Path:
    """A corpus whose cache is built in a root where no run has begun."""
    path = write_jsonl(tmp_path / "c.jsonl", 50)
    again(path)
    return path


@pytest.fixture
def corpus(looked_at: Path) -> Path:
    """A corpus whose cache belongs to a checkpoint."""
    take(looked_at.parent / "root", commits=True)
    return looked_at


def take(root: Path, *, commits: bool) -> None:
    """What a training leaves in a root: HEAD, with a checkpoint or without one."""
    epoch = Epoch(attempt=1, restart=0)
    entry = CommittedStep(
        step=5,
        epoch=epoch,
        path="steps/5/",
        manifest_sha256="0" * 64,
        size_bytes=9,
        time="2026-01-01T00:00:00Z",  # type: ignore[arg-type]
    )
    head = Head(owner=Owner(namespace="default", name="r"), epoch=epoch, writer="w", starts=1)
    committed = (entry,) if commits else ()
    (root / HEAD_KEY).write_bytes(encode_head(head.model_copy(update={"committed": committed})))


def again(corpus: Path, root: str = "root", **more: Any) -> tuple[list[str], Caches]:
    """Open the caches: what is said of those that are built again, and the caches."""
    said: list[str] = []
    source = jsonl(corpus, **more.pop("source", {}))
    spec = spec_of(f"file://{corpus.parent}/{root}", [source], **more)
    return said, ensure_caches(spec, process="second", on_rebuild=said.append)[1]


CHANGES = [
    ({"tokenizer": {"bpe": {"vocabSize": 512}}}, "another tokenizer"),
    ({"source": {"rows": {"start": 1}}}, "another rows"),
    ({"source": {"format": {"text": {"field": "number"}}}}, "another format"),
]


@pytest.mark.parametrize(("change", "what"), CHANGES[:2])
@pytest.mark.parametrize("begun", [False, True])
def test_without_a_checkpoint_another_identity_is_built_again(
    looked_at: Path, change: dict[str, Any], what: str, begun: bool
) -> None:
    if begun:  # a training that was interrupted before its first checkpoint
        take(looked_at.parent / "root", commits=False)
    said, _ = again(looked_at, **change)
    root = f"file://{looked_at.parent}/root"
    assert said == [
        f"spec.data.sources[web]: its token cache was built with {what}; {root} has no checkpoint yet, so its tokens "
        "are made again"
    ]
    assert again(looked_at, **change)[0] == []


def test_without_a_checkpoint_a_changed_root_becomes_that_of_a_new_one(looked_at: Path) -> None:
    again(looked_at, **BPE)
    looked_at.write_text(looked_at.read_text().replace("w1", "x1"))
    (sentence,), _ = again(looked_at, **BPE)
    assert f"{looked_at} was written again, since its token cache was built; " in sentence
    again(looked_at, "new", **BPE)
    folder = looked_at.parent
    assert files_below(folder / "root" / "data").keys() == files_below(folder / "new" / "data").keys()
    ledger = "web/LEDGER.json"
    assert files_below(folder / "root" / "data")[ledger] == files_below(folder / "new" / "data")[ledger]


def test_a_tokenizer_of_another_text_is_not_taken_when_the_document_is_set_back(looked_at: Path) -> None:
    again(looked_at, **BPE)
    looked_at.write_text(looked_at.read_text().replace("w", "x"))
    again(looked_at)
    tokenizer = again(looked_at, **BPE)[1].tokenizer
    assert tokenizer.fingerprint == again(looked_at, "new", **BPE)[1].tokenizer.fingerprint


def test_a_tokenizer_whose_text_is_not_recorded_is_trained_again(looked_at: Path) -> None:
    """A build may be killed after the tokenizer is stored, and before the ledger is."""
    again(looked_at, **BPE)
    (looked_at.parent / "root" / "data" / "web" / "LEDGER.json").unlink()
    looked_at.write_text(looked_at.read_text().replace("w", "x"))
    tokenizer = again(looked_at, **BPE)[1].tokenizer
    assert tokenizer.fingerprint == again(looked_at, "new", **BPE)[1].tokenizer.fingerprint


def test_a_process_that_trains_keeps_its_shards(looked_at: Path) -> None:
    take(looked_at.parent / "root", commits=False)
    shards = looked_at.parent / "root" / "data" / "web" / "shards"
    before = set(shards.iterdir())
    looked_at.write_text(looked_at.read_text().replace("w1", "x1"))
    assert again(looked_at)[0]
    assert before < set(shards.iterdir())


def test_caches_that_other_runs_may_use_are_not_built_again(looked_at: Path) -> None:
    shared: dict[str, Any] = {"data__cache": {"root": f"file://{looked_at.parent}/shared"}}
    again(looked_at, **shared)
    with pytest.raises(BadConfiguration, match=r"or give the changed run a spec\.data\.cache\.root of its own"):
        again(looked_at, source={"rows": {"start": 1}}, **shared)


@pytest.mark.parametrize(("change", "what"), CHANGES)
def test_another_identity_is_refused(corpus: Path, change: dict[str, Any], what: str) -> None:
    with pytest.raises(
        BadConfiguration, match=r"^spec\.data\.sources\[web\]: its token cache was built with "
    ) as error:
        again(corpus, **change)
    root = f"file://{corpus.parent}/root"
    assert str(error.value).endswith(f" {what}, and {root} has checkpoints; {WAYS_OUT}")


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
    with pytest.raises(DamagedData, match=r"LEDGER\.json is not a JSON document; delete the cache"):
        again(corpus)


def test_a_root_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file where a folder should be")
    corpus = write_jsonl(tmp_path / "c.jsonl", 5)
    with pytest.raises((RootUnusable, BadConfiguration), match=r"root"):
        ensure_caches(spec_of(f"file://{tmp_path}/root", [jsonl(corpus)]), process="p")
