"""One model, and one server for the tests that leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from halcyon.serving.limits import Limits
from halcyon.serving.served import Served
from tests.trainer.serving.running import TEMPLATE, Running, load, running, write_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return load(write_model(tmp_path_factory.mktemp("serving") / "tiny", template=TEMPLATE))


@pytest.fixture(scope="session")
def shared_server(tiny: Served) -> Iterator[Running]:
    with running(tiny, Limits(requests=2000, choices=32, body_bytes=20_000)) as found:
        yield found


@pytest.fixture
def server(shared_server: Running) -> Iterator[Running]:
    yield shared_server
    shared_server.wait_until_idle()
