"""All trainer tests of this process share eight virtual CPU devices."""

import os
import time
from collections.abc import Callable, Iterator

import pytest

from tests.trainer.exactness import record
from tests.trainer.support.shared_programs import QUICK_FLAGS, MemoryMaps, Programs, forget, keep_programs, kept_folder

os.environ["XLA_FLAGS"] = QUICK_FLAGS  # before JAX starts its backend

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
keep_programs(os.environ)

from tests.trainer.support.process_groups import shared  # noqa: E402

_maps = MemoryMaps()


def pytest_runtest_teardown() -> None:
    """Free compiled programs between tests when there are too many."""
    _maps.free_if_many()


@pytest.fixture(scope="session", autouse=True)
def shared_programs() -> Iterator[None]:
    """Compiled programs of runs, shared by all workers and later sessions."""
    shared.programs = Programs(kept_folder(os.environ) / "runs")
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0":
        forget(kept_folder(os.environ), made_before=time.time() - 7 * 86_400)
    yield
    shared.programs = None


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[record.Table, str, float], None]:
    """Records the figure of a case for docs/exactness.md, with ``--exactness``. Call it after the last assertion."""
    return record.write if request.config.getoption("exactness") else lambda table, case, figure: None
