"""A command line flag of this folder's tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden", action="store_true", help="write tests/operator/golden instead of comparing with it"
    )
