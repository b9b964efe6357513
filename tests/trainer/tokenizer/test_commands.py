"""`halcyon tokenizer` trains on files of several kinds, writes atomically, shows how well they compress, and
reports errors in one sentence.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from halcyon.commands.main import app
from halcyon.commands.tokenizer import take_bytes
from halcyon.commands.views.tokenizers import SAMPLES, compression
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon.tokenizer.bpe import train_bpe
from halcyon.tokenizer.tiktoken_encodings import ENCODINGS
from halcyon_api.ends import ExitCode
from tests.trainer.tokenizer.test_tiktoken import CONTENT
from tests.trainer.tokenizer.texts import TRAINING, trained


def halcyon(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["tokenizer", *map(str, arguments)], env={"COLUMNS": "200"}, catch_exceptions=False)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    plain, packed = tmp_path / "a.txt", tmp_path / "b.jsonl.gz"
    plain.write_text(TRAINING[0])
    packed.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in TRAINING[1:]).encode()))
    return [plain, packed]


def test_a_tokenizer_is_trained_on_files_and_compared(files: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "new" / "tokenizer.json"
    result = halcyon("train", *files, "--vocab-size", 512, "--special-token", "<|more|>", "--output", output)
    assert result.exit_code == 0, result.output
    assert output.read_bytes() == trained().content
    assert [path.name for path in output.parent.iterdir()] == ["tokenizer.json"]
    assert "English" in result.stdout
    assert "244 of at most 244 merges\n" in result.stderr


def test_encodings_in_the_local_tiktoken_cache_are_compared_too(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))

    def shown() -> str:
        return halcyon("train", *files, "--vocab-size", 300, "--output", tmp_path / "tokenizer.json").stdout

    assert "gpt2" not in shown()
    facts = ENCODINGS["gpt2"]
    known = type(facts)(facts.pattern, facts.special_tokens, facts.url, hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(ENCODINGS, "gpt2", known)  # type: ignore[arg-type]
    (tmp_path / hashlib.sha1(facts.url.encode(), usedforsecurity=False).hexdigest()).write_bytes(CONTENT)
    assert "gpt2" in shown()
    (tmp_path / hashlib.sha1(facts.url.encode(), usedforsecurity=False).hexdigest()).write_bytes(CONTENT[:-1])
    assert "gpt2" not in shown()


def test_a_sample_is_taken_in_order() -> None:
    assert list(take_bytes(["한국", "b", "c"], 6)) == ["한국"]
    assert list(take_bytes(["한국", "b", "c"], 7)) == ["한국", "b"]
    assert list(take_bytes(["a"], 100)) == ["a"]


def test_every_sample_comes_back_and_its_bytes_are_counted() -> None:
    tokenizer = load(train_bpe(SAMPLES.values(), 1024))
    for kind, text in SAMPLES.items():
        ratio, is_lossless = compression(tokenizer, text)
        assert is_lossless, kind
        assert len(text.encode()) == int(tokenizer.token_bytes[tokenizer.encode(text)].sum())
        assert ratio > 1


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    result = halcyon("train", tmp_path / "a.txt", "--output", tmp_path / "tokenizer.json")
    assert result.exit_code == ExitCode.BAD_CONFIGURATION
    words = "a.txt is not UTF-8 at byte 3 (0xe9): 1 of its 4 bytes would be replaced; convert the text, for example"
    assert words in result.stderr
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_failed_write_leaves_no_files(files: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "taken"
    (target / "x").mkdir(parents=True)
    result = halcyon("train", *files, "--vocab-size", 300, "--output", target)
    assert result.exit_code == ExitCode.BAD_CONFIGURATION
    assert "it cannot be written" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.jsonl.gz", "taken"]


def test_definitions_compare_by_content() -> None:
    assert TokenizerDefinition("tokenizerJson", trained().content, trained().options) == trained()
