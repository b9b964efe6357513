"""docs/reliability.md is made by a run of these tests, and agrees with them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import mutations
from tests.faults.mutation_table import MUTATIONS, PROMISES
from tests.faults.mutations import mutate
from tests.faults.table import REPOSITORY, marked_tests, tabled_tests

PAGE = REPOSITORY / "docs" / "reliability.md"


def test_the_committed_table_names_the_rows_and_tests_of_the_suite_and_no_others() -> None:
    marked = marked_tests()
    assert all(marked.values()), "a row without a test"
    assert tabled_tests(PAGE) == marked, "run `make reliability`"


def test_every_row_of_the_committed_table_held() -> None:
    assert "**no**" not in PAGE.read_text()


def test_every_mutation_still_applies_to_the_code(tmp_path: Path) -> None:
    marked = marked_tests()
    for number, mutation in enumerate(MUTATIONS):
        package = tmp_path / str(number)
        for name in {name for name, *_ in mutation.edits}:
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / mutation.package / name, package / name)
        mutate(mutation, package)
        assert mutation.row in marked or mutation.row in PROMISES, "the mutation belongs to no row"


@pytest.mark.slow
def test_make_test_runs_the_tests_that_find_each_mutation() -> None:
    wanted = {test for mutation in MUTATIONS for test in mutation.tests}
    files = sorted({test.split("::")[0] for test in wanted})
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--collect-only", "-m", mutations.IN_MAKE_TEST, *files]
    found = set(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines())
    found |= {test.partition("[")[0] for test in found}
    assert wanted - found == set()
