"""What a user does in the first hour: look at the data, change it, look again, train, change it, begin again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from halcyon_api.ends import ExitCode
from tests.families import llama
from tests.suite.limits import limit

pytestmark = pytest.mark.slow


def test_a_look_freezes_nothing_and_a_training_is_begun_again_with_fresh(tmp_path: Path) -> None:
    text, root = tmp_path / "notes" / "a.txt", tmp_path / "root"
    text.parent.mkdir()
    text.write_text("The quick brown fox jumps over the lazy dog.\n" * 200)
    spec = {
        "accelerator": {"type": "cpu"},
        "model": llama(1, 8, 8, 1),
        "tokenizer": {"bpe": {"vocabSize": 512}},
        "data": {"sources": [{"name": "notes", "text": {"paths": [str(text.parent)]}}]},
        "trainer": {"steps": 2, "batchSize": 2, "sequenceLength": 16},
        "checkpoint": {"root": f"file://{root}"},
    }
    document = tmp_path / "run.yaml"
    meta = {"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRun", "metadata": {"name": "notes"}}
    document.write_text(yaml.safe_dump({**meta, "spec": spec}))

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "halcyon.commands.main", *words, str(document)],
            capture_output=True,
            text=True,
            timeout=limit(120),
            check=False,
        )

    assert command("data", "stats").returncode == 0
    text.write_text(text.read_text() + "One more line.\n")
    looked = command("data", "stats")
    assert looked.returncode == 0
    assert "has no checkpoint yet, so its tokens are made again" in looked.stderr
    assert command("train").returncode == 0
    head = (root / "HEAD").read_bytes()

    text.write_text(text.read_text() + "And another one.\n")
    for refused in (command("data", "stats"), command("train")):
        assert refused.returncode == ExitCode.BAD_CONFIGURATION
        assert (
            "begin again with halcyon train --fresh, or train the change as a branch" in refused.stdout + refused.stderr
        )
    assert (root / "HEAD").read_bytes() == head

    assert command("train", "--fresh").returncode == 0
    assert (tmp_path / "root.old-1" / "HEAD").read_bytes() == head
    assert (root / "HEAD").read_bytes() != head
