"""`make tests-of` finds the tests of a file by the imports."""

from __future__ import annotations

import subprocess
import sys

from tests.suite.limits import limit
from tests.suite.tests_of import REPOSITORY, distances, imports_of


def test_names_of_imports() -> None:
    text = "import a.b\nfrom a.c import d, e\ndef late():\n    from f import g\n"
    assert list(imports_of(text)) == ["a.b", "a.c.d", "a.c.e", "f.g"]


def test_the_distance_is_the_number_of_imports() -> None:
    assert distances("part", {"part": {"model", "test_part"}, "model": {"test_model", "part"}}) == {
        "part": 0,
        "model": 1,
        "test_part": 1,
        "test_model": 2,
    }


def test_the_nearest_test_of_a_file_comes_first() -> None:
    command = [sys.executable, "-m", "tests.suite.tests_of", "operator/halcyon_operator/run/work_queue.py"]
    printed = subprocess.run(
        command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=limit(60)
    ).stdout
    assert "1 tests/operator/test_work_queue.py" in printed.splitlines()
    assert printed.splitlines()[0].startswith("1 ")
