"""Training of a tokenizer: the same file for any number of threads, bytes first and special tokens last; other
libraries can load it.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import pytest
import tokenizers

from halcyon.errors import BadConfiguration
from halcyon.tokenizer import load
from halcyon.tokenizer.bpe import train_bpe
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
