"""Every family can be imported and exported: the same bits, the same model, the same logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import halcyon
from halcyon.models.families.lookup import published_of_config
from halcyon.models.published.config import ConfigReader
from tests.trainer.models.parity import NAMES, Golden
from tests.trainer.weights.folders import exported, imported, same_bits, write_folder

FAST = ("gpt-oss", "deepseek-v3", "gemma3-images")
"""They have every kind of entry of a weight map: experts, layers of two kinds, joined tensors, another order of
features, images.
"""

CASES = [pytest.param(name, marks=() if name in FAST else pytest.mark.variant, id=name) for name in NAMES]


@pytest.mark.parametrize("name", CASES)
def test_an_import_and_its_export_keep_every_bit(name: str, tmp_path: Path, measured: Callable[..., None]) -> None:
    golden = Golden.load(name)
    weights, config = golden.named("weight"), json.loads(golden.arrays["config"].tobytes())
    folder = write_folder(tmp_path / "model", weights, config)
    images = golden.arrays.get("images")
    sees = images is not None
    imported(folder, tmp_path / "root", images=sees)
    assert same_bits(exported(tmp_path / "root", tmp_path / "out"), weights)

    written = ConfigReader.parse((tmp_path / "out" / "config.json").read_bytes())
    form = golden.form
    assert published_of_config(written, images=sees) is form
    sections = [form.write(form.read(form.completed(config)), 64) for config in (written, golden.config)]
    assert sections[0] == sections[1]
    measured("export", name, len(weights))

    imported(tmp_path / "out", tmp_path / "again", images=sees)
    assert same_bits(exported(tmp_path / "again", tmp_path / "last"), weights)
    model, _ = halcyon.load(f"{tmp_path / 'again'}")
    counted = golden.arrays["segments"][0] > 0
    row, expected = golden.arrays["tokens"][:1], golden.arrays["logits"][:1]
    assert counted.all(), "the first row is one document"
    sound = np.moveaxis(golden.arrays["sound"][:1], 1, 2) if "sound" in golden.arrays else None
    found = halcyon.logits(model, row, sound=sound, images=images[:1] if sees else None)
    assert np.abs(np.asarray(found) - expected).max() <= 2e-5 * np.abs(expected).max()
    measured("import", name, len(weights))
