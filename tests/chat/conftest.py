"""The toy chain, run once for all tests that need it, and the browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chat.toy import Chain, write_toy_chain
from tests.page.conftest import browser

__all__ = ["browser"]


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_chain(tmp_path_factory.mktemp("chain") / "documents")


@pytest.fixture(scope="session")
def calm(documents: Path) -> Chain:
    """The chain, undisturbed."""
    chain = Chain(documents, documents.with_name("calm"), documents.with_name("compiled"))
    chain.finish(chain.start())
    return chain
