"""Sounds with texts: features, files of strangers, and the rows of a batch."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from halcyon.data import sound
from halcyon.data.formats import build_formatter
from halcyon.data.named_files import BadFile
from halcyon.data.open import inspect_dataset
from halcyon.data.sound import decoded, log_mel
from halcyon.data.sources import Access, SourceRow
from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon_api.spec.sources import FormatSpec
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.arrays import load_arrays
from tests.parity.log_mel import EVERY, FILE
from tests.parity.log_mel import sound as golden_sound
from tests.trainer.support.speech import WHISPER, clips, tone

BYTES = load(TokenizerDefinition(kind="byte"))


def written(samples: np.ndarray, rate: int, form: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form)
    return buffer.getvalue()


@pytest.mark.parametrize("bands", [80, 128])
def test_features_are_those_of_transformers(bands: int) -> None:
    found = log_mel(golden_sound(), bands, 3000)
    assert found.shape == (3000, bands)
    assert np.abs(found[::EVERY][:60] - load_arrays(FILE)[str(bands)]).max() < 1e-6
    assert (log_mel(golden_sound(), bands, 100).shape, log_mel(golden_sound()[:1], bands, 4).dtype) == (
        (100, bands),
        "f4",
    )


@pytest.mark.parametrize(("form", "rate"), [("WAV", 16_000), ("FLAC", 8000), ("MP3", 22_050), ("WAV", 44_100)])
def test_files_become_samples_at_16_khz(form: str, rate: int) -> None:
    found = decoded(written(tone(rate, 440, 0.5, channels=2), rate, form), 30) / sound.FULL
    expected = tone(16_000, 440, 0.5)[:, 0]
    middle = slice(1500, 6000)  # mp3 and filters change the ends
    assert abs(len(found) - len(expected)) <= 2
    error = np.abs(found[middle] - expected[middle]).max()
    assert error < (2e-4 if rate == 16_000 else 0.01)
    if (form, rate) == ("WAV", 16_000):
        samples = np.arange(-300, 300, dtype=np.int16)
        assert (decoded(written(samples, rate), 30) == samples).all()


SILENCE = np.zeros((16_000 * 40, 1), np.int16)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (written(SILENCE, 16_000, "FLAC"), "is longer than 30 s, the limit"),
        (written(np.zeros((10, 9), np.int16), 16_000), "has 9 channels; the limit is 8"),
        (written(np.zeros(10, np.int16), 384_000), "has 384,000 samples a second; the limits are 4,000 and 192,000"),
        (written(np.zeros(0, np.int16), 16_000), "has no samples"),
        (b"RIFF\x00\x00\x00\x00WAVE", "is no sound that can be read"),
        (b"", "is no sound that can be read"),
        (bytes(sound.MOST_BYTES + 1), "has 67,108,865 bytes; the limit is 67,108,864"),
    ],
    ids=["seconds", "channels", "rate", "empty", "cut", "nothing", "bytes"],
)
def test_a_bomb_is_told_with_its_limit(content: bytes, what: str) -> None:
    with pytest.raises(BadFile, match=what):
        decoded(content, 30)


def documents(row: dict[str, Any], folder: Path) -> np.ndarray:
    formatter = build_formatter(
        FormatSpec.model_validate({"speech": {}}), BYTES, where="format", access=Access(pause_seconds=0)
    )
    return formatter([SourceRow(f"{folder}/rows.jsonl", 3, row)])[0].tokens


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("long.flac", r"row 3 \(counted from 0\) of .*rows.jsonl names a sound 'long.flac' that is longer than 30 s"),
        ("../secret.wav", "'../secret.wav' that is not below the folder"),
        ("a/../../secret.wav", "not below the folder"),
        ("/etc/passwd", "not below the folder"),
        ("http://169.254.169.254/a.wav", "not below the folder"),
        ("none.wav", "cannot be read"),
        (7, "neither a path nor bytes"),
        ({"array": [1]}, "neither a path nor bytes"),
        ("a\0b.wav", "neither a path nor bytes"),
    ],
)
def test_a_row_with_a_bad_sound_is_named(tmp_path: Path, value: Any, what: str) -> None:
    (tmp_path / "long.flac").write_bytes(written(SILENCE, 16_000, "FLAC"))
    with pytest.raises(BadConfiguration, match=what) as caught:
        documents({"audio": value, "text": "a"}, tmp_path)
    assert "\n" not in str(caught.value)


def spec_of(tmp_path: Path, source: dict[str, Any], **more: Any) -> TrainingRunSpec:
    return TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": "cpu"},
            "model": WHISPER,
            "tokenizer": {"byte": {}},
            "data": {"sources": [source], "validation": {"fraction": 0.25}},
            "optimizer": {"adamw": {}, "learningRate": 0.01},
            "trainer": {"steps": 3, "batchSize": 4, "sequenceLength": 16},
            "checkpoint": {"root": f"file://{tmp_path}/root"},
            **more,
        }
    )


def test_a_batch_has_each_text_with_its_own_sound(tmp_path: Path) -> None:
    """From files beside jsonl, and from columns of parquet as `datasets` writes them."""
    source = clips(tmp_path / "rows", 8)
    rows = [json.loads(line) for line in (tmp_path / "rows" / "rows.jsonl").read_text().splitlines()]
    sounds = [{"bytes": (tmp_path / "rows" / row["audio"]).read_bytes(), "path": None} for row in rows]
    pq.write_table(pa.table({"audio": sounds, "text": [row["text"] for row in rows]}), tmp_path / "rows.parquet")
    table = {**source, "parquet": {"paths": [f"{tmp_path}/rows.parquet"]}}
    del table["jsonl"]
    found = []
    for number, one in enumerate((source, table)):
        dataset, _ = inspect_dataset(spec_of(tmp_path / str(number), one), process="test")
        examples = dataset.examples(dataset.train_rows(0))
        assert examples.sound is not None
        assert examples.sound.shape == (4, 20, 16)
        for tokens, targets, weights, heard in zip(
            examples.tokens, examples.targets, examples.weights, examples.sound, strict=True
        ):
            text = BYTES.decode([token for token, weight in zip(targets, weights, strict=True) if weight])
            index = next(index for index, row in enumerate(rows) if row["text"] == text)
            same = [row for row in range(8) if row % 4 == index]
            content = [decoded(sounds[row]["bytes"], 30) for row in same]
            assert any((heard == log_mel(samples, 16, 20)).all() for samples in content)
            assert weights.sum() == len(text) + 1, "the text and its end count, and not what is before"
            assert tokens[0] == BYTES.bos_id
        found.append(examples)
    assert (found[0].sound == found[1].sound).all()
    padded = found[0].padded_to(6)
    assert padded.sound is not None
    assert padded.sound.shape == (6, 20, 16)


def test_what_the_family_cannot_do_is_told_before_a_run(tmp_path: Path) -> None:
    source = {"name": "a", "jsonl": {"paths": ["a.jsonl"]}, "format": {"speech": {}}}
    assert find_problems(spec_of(tmp_path, source)) == ()
    text = spec_of(tmp_path, source | {"format": {"text": {}}})
    assert [problem.message for problem in find_problems(text)] == [
        "the family whisper hears a sound with each text, and text has none; set format speech"
    ]
    deaf = spec_of(tmp_path, source, model={"family": "gpt2", "hiddenSize": 48})
    assert "the family gpt2 hears no sound" in find_problems(deaf)[0].message
    tuned = spec_of(tmp_path, source, objective={"finetune": {}})
    assert [problem.field for problem in find_problems(tuned)] == ["spec.objective"]
    split = spec_of(tmp_path, source, mesh={"ici": {"context": 2}}, accelerator={"type": "cpu", "topology": "1x2"})
    assert "spec.mesh.ici.context" in [problem.field for problem in find_problems(split)]
