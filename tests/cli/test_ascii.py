"""A terminal without Unicode does not make a command fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.mistakes.row import FOLDER, document
from tests.suite.limits import limit


@pytest.mark.slow
def test_in_an_ascii_locale_bars_are_ascii(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/1.txt").write_text("zoë\n" * 500)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document({})).replace(FOLDER, str(tmp_path)))
    ended = subprocess.run(
        [sys.executable, "-m", "halcyon_cli.main", "data", "stats", "run.yaml"],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        timeout=limit(60),
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.isascii()
    assert b"#" in ended.stdout, "the histogram"
    assert b"?" not in ended.stdout
