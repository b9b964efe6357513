"""Training of a tokenizer: the same file for any number of threads, bytes first and special tokens last; other
libraries can load it.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import rustbpe
import tokenizers

from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import load
from halcyon.tokenizer.bpe import SPLIT_PATTERN, find_merge, train_bpe, write_tokenizer_json
from halcyon.tokenizer.rendered import RenderedText
from halcyon.tokenizer.special import OWN_SPECIAL_TOKENS
from tests.trainer.tokenizer.texts import TRAINING, trained

FINGERPRINT = "import sys; from tests.trainer.tokenizer.texts import trained; sys.stdout.write(trained().fingerprint)"


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2", "7"])
def test_threads_and_hash_seeds_change_nothing(threads: str) -> None:
    environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
    found = subprocess.run(
        [sys.executable, "-c", FINGERPRINT], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert found == trained().fingerprint


def test_training_again_gives_the_same_bytes_and_other_text_does_not() -> None:
    assert train_bpe(iter(TRAINING), 512, ["<|more|>"]).content == trained().content
    assert train_bpe(TRAINING[:2], 512, ["<|more|>"]).content != trained().content


def test_bytes_come_first_and_special_tokens_last() -> None:
    vocabulary = json.loads(trained().content)["model"]["vocab"]
    tokenizer = load(trained())
    special = [*OWN_SPECIAL_TOKENS, "<|more|>"]
    assert list(vocabulary.values()) == list(range(512 - len(special)))
    assert list(tokenizer.special_tokens.items()) == [
        (name, 512 - len(special) + index) for index, name in enumerate(special)
    ]
    assert tokenizer.vocab_size == 512
    assert [int(tokenizer.encode(chr(byte))[0]) for byte in range(128)] == list(range(128))
    assert "<|bos|>" in {name for name, index in tokenizer.special_tokens.items() if index == tokenizer.bos_id}


def test_a_reader_of_the_format_gives_the_same_ids() -> None:
    reader = tokenizers.Tokenizer.from_str(trained().content.decode())
    text = "The tokenizer's words, 12345 numbers; 안녕하세요\n\n   x = 1"
    assert reader.encode(text).ids == load(trained()).encode(text).tolist()
    assert (
        reader.encode("a<|user_start|>b").ids
        == load(trained()).encode_rendered([RenderedText("a<|user_start|>b", [(1, 15)])])[0].tokens.tolist()
    )


def test_numbers_are_split_in_groups_of_two() -> None:
    tokenizer = load(train_bpe(["123123 " * 1000], 512))
    ids = tokenizer.encode("123123")
    assert [tokenizer.decode(ids[index : index + 1]) for index in range(len(ids))] == ["12", "31", "23"]


RUNS = [
    "x" * 511 + " y",
    "=" * 511 + "\n",
    " " * 511 + "z",
    *(f"<{'ab' * 200}>/{'-' * number}\n" for number in range(50)),
]
"""Runs that are not longer than a block of letters, of signs and of white space."""


def plain_merge(data: bytes, rank_of: Mapping[bytes, int]) -> tuple[bytes, ...]:
    """The parts of a token before its own merge: each pair is looked up again after each merge."""
    parts = [data[place : place + 1] for place in range(len(data))]
    while len(parts) > 2:
        ranks = [rank_of.get(left + right, len(rank_of)) for left, right in pairwise(parts)]
        best = ranks.index(min(ranks))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return tuple(parts)


def test_text_without_long_runs_has_the_merges_of_whole_texts() -> None:
    texts = [*TRAINING, *RUNS]
    whole = rustbpe.Tokenizer()  # type: ignore[attr-defined]
    whole.train_from_iterator(iter(texts), 600, pattern=SPLIT_PATTERN)
    ranks = {bytes(data): rank for data, rank in whole.get_mergeable_ranks()}
    assert train_bpe(texts, 600 + len(OWN_SPECIAL_TOKENS)).content == write_tokenizer_json(
        ranks.items(), OWN_SPECIAL_TOKENS
    )
    for data in list(ranks)[256:]:
        assert find_merge(data, ranks) == plain_merge(
            data, {key: rank for key, rank in ranks.items() if rank < ranks[data]}
        )


class Counted(dict[bytes, int]):
    lookups = 0

    def get(self, key: bytes, default: Any = None) -> Any:
        self.lookups += 1
        return super().get(key, default)


@pytest.mark.parametrize("letters", ["x", " ", " \t\n", "ACGT", "-=*"])
def test_a_long_run_has_tokens_of_bounded_length_and_is_trained_in_linear_steps(letters: str) -> None:
    text = "".join(Random(0).choices(letters, k=20_000))
    vocabulary = json.loads(train_bpe([text], 2048).content)["model"]["vocab"]
    assert max(map(len, vocabulary)) <= 1024 + len("<|assistant_start|>")
    powers = Counted({b"x" * 2**power: power for power in range(15)})
    assert find_merge(b"x" * 2**14, powers) == (b"x" * 2**13, b"x" * 2**13)
    assert powers.lookups < 8 * 2**14


def test_merges_are_reported() -> None:
    seen: list[tuple[int, int]] = []
    train_bpe(TRAINING, 400, on_merges=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (133, 133)
    assert seen == sorted(seen)


def test_a_definition_can_be_pickled() -> None:
    again = pickle.loads(pickle.dumps(trained()))  # noqa: S301 - our own
    assert again == trained()
    assert again.fingerprint == trained().fingerprint


def test_little_text_gives_fewer_tokens() -> None:
    tokenizer = load(train_bpe(["ab ab ab"], 4096))
    assert tokenizer.vocab_size < 300
    assert tokenizer.decode(tokenizer.encode("ab")) == "ab"


@pytest.mark.parametrize(
    ("texts", "size", "special", "sentence"),
    [
        ([], 600, [], "spec.tokenizer.bpe: there is no text to train on; give sources with text"),
        ([""], 600, [], "spec.tokenizer.bpe: there is no text to train on; give sources with text"),
        (
            ["a"],
            600,
            ["<|bos|>"],
            "spec.tokenizer.bpe.specialTokens: '<|bos|>' is given twice; name each token once, and do not name "
            "Halcyon's own tokens",
        ),
        (
            ["a"],
            266,
            [],
            "spec.tokenizer.bpe.vocabSize: 266 leaves no room for 256 bytes and 11 special tokens; use 267 or more",
        ),
    ],
)
def test_impossible_training_is_reported_in_one_sentence(
    texts: list[str], size: int, special: list[str], sentence: str
) -> None:
    with pytest.raises(BadConfiguration) as caught:
        train_bpe(texts, size, special)
    assert str(caught.value) == sentence
