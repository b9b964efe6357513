"""JobSet's webhook accepts the JobSet of every row of the hardware table.

tests/apiserver/test_hardware.py tests the rest.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.apiserver.api import Api
from tests.apiserver.rows import ROWS, jobset_of
from tests.cluster.conftest import DevCluster

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def api(devcluster: DevCluster) -> Iterator[Api]:
    api = Api(devcluster.kubeconfig.read_text())
    yield api
    api.close()


@pytest.mark.parametrize("name", ROWS)
def test_jobset_accepts_the_objects_of_every_row(api: Api, name: str) -> None:
    api.create(jobset_of(name), "default", dry_run=True)
