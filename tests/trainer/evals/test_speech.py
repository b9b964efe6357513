"""The words that a model hears wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import pytest

from halcyon.evals import speech
from halcyon.evals.benchmarks import BENCHMARKS
from halcyon.evals.runner import Runner
from halcyon.evals.scores import result_of, samples_of
from halcyon.host.errors import BadConfiguration
from halcyon.models import build_model
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.families.whisper import WhisperSpec
from tests.trainer.support.speech import WHISPER, clips

BYTES = load(TokenizerDefinition(kind="byte"))


def runner_of(spec: Any) -> Runner:
    sizes = hax.Axis("vocab", BYTES.vocab_size), hax.Axis("position", 16)
    return Runner(build_model(spec, *sizes, dtype="float32", key=jax.random.key(0)), BYTES)


def rows_of(folder: Path, *rows: Any) -> Path:
    path = folder / "said.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_errors_are_words_of_all_sounds_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips(tmp_path, 3)
    said = "Two  words.", "It's seven, and no more!", "one"
    rows = [
        {"audio": f"clips/{place}.{kind}", "text": text}
        for (place, kind), text in zip(((0, "wav"), (1, "flac"), (2, "mp3")), said, strict=True)
    ]
    benchmark = BENCHMARKS["speech"].read(rows_of(tmp_path, *rows))
    heard = iter([("two words", 0.1), ("its seven of no", 0.1), ("one and one", 0.1)])
    monkeypatch.setattr(speech.Transcriber, "of", lambda *_: None)
    monkeypatch.setattr(speech, "written_texts", lambda _, sounds, *__: (next(heard) for _ in sounds))
    model: Any = None
    answers = list(speech.heard_answers(model, BYTES, benchmark.examples, compute_dtype="float32"))
    assert [(one.errors, one.words) for one in answers] == [(0, 2), (2, 5), (2, 1)]
    assert result_of("speech", answers, None, 1.0).word_error_rate == 4 / 8
    assert [one.prompt for one in samples_of(benchmark, answers)] == list(said)
    assert result_of("speech", answers, None, 1.0).accuracy is None


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"text": "one"}, "the row has no field audio"),
        ({"audio": "absent.wav", "text": "one"}, "neither bytes nor a file below the folder"),
        ({"audio": "../said.jsonl", "text": "one"}, "neither bytes nor a file below the folder"),
        ({"audio": {"array": [1]}, "text": "one"}, "neither bytes nor a file below the folder"),
        ({"audio": "a\0b.wav", "text": "one"}, "neither bytes nor a file below the folder"),
        ({"audio": 7, "text": "one"}, "neither bytes nor a file below the folder"),
        ({"audio": "said.jsonl", "text": "..."}, "the field text has no word"),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=f"said.jsonl line 1: .*{what}"):
        BENCHMARKS["speech"].read(rows_of(tmp_path, row))


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    whisper = WhisperSpec.model_validate({name: value for name, value in WHISPER.items() if name != "family"})
    benchmark = BENCHMARKS["speech"].read(rows_of(tmp_path, {"audio": "said.jsonl", "text": "one"}))
    with pytest.raises(BadConfiguration, match="not of the family whisper"):
        runner_of(LlamaSpec(num_hidden_layers=1, hidden_size=8, intermediate_size=8, num_attention_heads=1)).run(
            benchmark
        )
    with pytest.raises(BadConfiguration, match=r"said\.jsonl line 1: the sound is no sound that can be read"):
        runner_of(whisper).run(benchmark)
    other = BENCHMARKS["gsm8k"].read(rows_of(tmp_path, {"question": "1 + 1?", "answer": "#### 2"}))
    with pytest.raises(BadConfiguration, match="task gsm8k: the model writes down sounds alone"):
        runner_of(whisper).run(other)
