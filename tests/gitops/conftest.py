"""Argo CD and kstatus, started once for all tests of this folder."""

from collections.abc import Iterator

import pytest

from halcyon_api.generate.argocd import CONFIG_MAP
from tests.gitops import readers


@pytest.fixture(scope="session")
def argo() -> Iterator[readers.Argo]:
    with readers.argo(CONFIG_MAP) as found:
        yield found


@pytest.fixture(scope="session")
def kstatus() -> Iterator[readers.Reader]:
    with readers.kstatus() as found:
        yield found
