"""All trainer tests of this process share eight pretended devices."""

import os
from collections.abc import Iterator

import pytest

# These tests are about numbers, not about speed, and most of their time is compilation: code that is not optimised compiles several times
# faster. It must be said before JAX starts its backend.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

from tests.trainer.programs import Programs  # noqa: E402 - after JAX is set up
from tests.trainer.worlds import shared  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def shared_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of all workers of the session."""
    base = tmp_path_factory.getbasetemp()
    shared.programs = Programs((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs")
    yield
    shared.programs = None
