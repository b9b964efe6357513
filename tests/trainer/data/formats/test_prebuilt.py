"""Prebuilt token ids: the beginning token is added, weights are kept, and ids outside the vocabulary are rejected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halcyon.data.formats import build_formatter
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.sources import FormatSpec, PrebuiltFormatSpec
from tests.trainer.data.formats.standin import MarkedBytes, row

TOKENIZER = MarkedBytes()
BOS = TOKENIZER.bos_id
WHERE = "spec.data.sources[ids].format"


def documents(*values: Any, weights: str | None = None) -> Any:
    spec = FormatSpec(prebuilt=PrebuiltFormatSpec(weights_field=weights))
    return build_formatter(spec, TOKENIZER, where=WHERE)([row(value) for value in values])


@pytest.mark.parametrize("kind", [list, lambda ids: np.array(ids, np.uint16), lambda ids: np.array(ids, np.int64)])
def test_token_ids_are_kept_and_begin_with_one_bos(kind: Any) -> None:
    with_bos, without = documents({"tokens": kind([BOS, 65, 66])}, {"tokens": kind([65, 66])})
    assert with_bos.tokens.tolist() == without.tokens.tolist() == [BOS, 65, 66]
    assert with_bos.tokens.dtype == without.tokens.dtype == np.int32
    assert with_bos.weights is None
    assert with_bos.size_bytes == 2


def test_weights_follow_their_tokens() -> None:
    one, two = documents(
        {"tokens": [65, 66], "w": [0, 0.5]}, {"tokens": [BOS, 66], "w": np.array([1.0, 0.25])}, weights="w"
    )
    assert one.weights.tolist() == [0, 0, 0.5]
    assert two.weights.tolist() == [1, 0.25]
    assert one.weights.dtype == np.float32


def test_empty_lists_are_left_out() -> None:
    assert [document.row for document in documents({"tokens": []}, {"tokens": [65]})] == [1]
    assert documents({"tokens": [], "w": []}, weights="w") == []


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            {"tokens": [1, 267]},
            "has the id 267 at place 1, beyond the tokenizer's 267 ids; use the tokenizer that the ids were made with",
        ),
        (
            {"tokens": [-1]},
            "has the id -1 at place 0, beyond the tokenizer's 267 ids; use the tokenizer that the ids were made with",
        ),
        ({"tokens": [2**40]}, "has the id 1099511627776 at place 0, beyond"),
        ({"tokens": np.array([2**63], np.uint64)}, "has the id 9223372036854775808 at place 0, beyond"),
        ({"tokens": [1.5]}, "has a field 'tokens' that is no list of whole numbers; name the field of the token ids"),
        ({"tokens": "abc"}, "has a field 'tokens' that is no list of whole numbers"),
        ({"tokens": [True]}, "has a field 'tokens' that is no list of whole numbers"),
        ({"tokens": [[1], [2, 3]]}, "has a field 'tokens' that is no list of whole numbers"),
        ({"ids": [1]}, "has no field 'tokens', only ids; name the field"),
    ],
)
def test_bad_ids_are_named(value: Any, sentence: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        documents({"tokens": [1]}, value)
    assert str(refused.value).startswith(
        f"{WHERE}.prebuilt.tokensField: row 17 (counted from 0) of s3://bucket/a.jsonl {sentence}"
    )


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1], "has 1 weights for 2 token ids; give one weight for each"),
        ([0, 1.01], "has a weight that is not from 0 to 1; fix the weights"),
        ([0, float("nan")], "has a weight that is not from 0 to 1; fix the weights"),
        (None, "has a field 'w' that is no list of numbers; name the field of the weights"),
    ],
)
def test_bad_weights_are_named(weights: Any, sentence: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        documents({"tokens": [1, 2], "w": weights}, weights="w")
    assert (
        str(refused.value)
        == f"{WHERE}.prebuilt.weightsField: row 17 (counted from 0) of s3://bucket/a.jsonl {sentence}"
    )
