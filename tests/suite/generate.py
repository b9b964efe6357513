"""`python -m tests.suite.generate`: collects the suite and writes docs/testing.md."""

from __future__ import annotations

import contextlib
import io
import sys

import pytest

from tests.suite.page import COLLECTED, PAGE, REPOSITORY, page


class _Writer:
    """Writes the page at the end of a collection."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        PAGE.write_text(page(session.config.stash[COLLECTED]), encoding="utf-8")


def main() -> int:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        outcome = pytest.main(["--collect-only", "-qq", str(REPOSITORY / "tests")], plugins=[_Writer()])
    if outcome != pytest.ExitCode.OK:
        print(output.getvalue(), file=sys.stderr)
    return int(outcome)


if __name__ == "__main__":
    sys.exit(main())
