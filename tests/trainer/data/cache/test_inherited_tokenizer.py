"""A run that begins from another one takes its trained tokenizer, wherever the tokens of the other run are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from halcyon.checkpoint import origin
from halcyon.data.cache.tokenizers import inherited_tokenizer, keep_tokenizer
from halcyon.host.storage.store import Store
from halcyon.tokenizer import TokenizerDefinition
from halcyon_api.reading import parse_run
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.support.process_groups import run_document

TRAINED = TokenizerDefinition("tokenizerJson", b"{}", {"beginning": "b", "end": "e"})


class _Manifest:
    """A manifest with only the fingerprints that the search reads."""

    def __init__(self, kind: str) -> None:
        self.fingerprints = self
        self.documents: dict[str, Any] = {
            "data": {"tokenizerSha256": TRAINED.fingerprint},
            "spec.tokenizer": {kind: {}},
        }


class _Head:
    committed = ("entry",)


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a run whose token cache is somewhere else; its kind of tokenizer is `bpe`."""
    root = tmp_path / "other"
    keep_tokenizer(Store(CheckpointSpec(root=root.as_uri())), TRAINED)
    monkeypatch.setattr(origin, "load_head", lambda store: (_Head(), False))
    monkeypatch.setattr(origin, "readable", lambda store, entries: [(entry, _Manifest("bpe")) for entry in entries])
    return root


def found(tmp_path: Path, other: Path) -> TokenizerDefinition | None:
    document = run_document(tmp_path / "own")
    document["spec"] |= {
        "tokenizer": {"bpe": {"vocabSize": 512}},
        "from": {"run": "other", "root": other.as_uri(), "weightsOnly": True},
    }
    inherited = inherited_tokenizer(
        parse_run(document).spec, Store(CheckpointSpec(root=(tmp_path / "tokens").as_uri()))
    )
    assert inherited is not None
    return inherited.find()


def test_the_copy_in_the_other_root_is_taken(tmp_path: Path, other: Path) -> None:
    assert found(tmp_path, other) == TRAINED


def test_a_tokenizer_that_was_not_trained_is_not_taken(
    tmp_path: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "readable", lambda store, entries: [(entries[0], _Manifest("tokenizerJson"))])
    assert found(tmp_path, other) is None
