"""Settings of all tests: the profile of property-based tests, limits, garbage collection, and the table that tests with
the marker `fault` fill.

Property-based tests have no deadline, because a busy machine is no fault. They try the same examples every time, so
that they fail only after a change.
"""

import gc
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.faults.table import Table, add_rows, trials
from tests.suite.limits import MachineReport, scale_timeouts, set_factor
from tests.suite.page import Collects

__all__ = ["trials"]

# On Python 3.11 there is no trainer; these tests of the operator, the contract and the command line use it.
_USE_THE_TRAINER = [
    "api/test_edits.py",
    "api/test_mesh.py",
    "cli/test_chain.py",
    "cli/test_history.py",
    "cli/test_render.py",
    "operator/test_s3.py",
]
collect_ignore = [] if find_spec("jax") else _USE_THE_TRAINER

_NEW_OBJECTS, _ROUNDS = 50_000, 20
"""Objects after which the youngest ones are looked at for garbage, and how often before older ones are."""

settings.register_profile("halcyon", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("halcyon")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", metavar="PAGE", type=Path, help="write the table of faults into this page")
    parser.addoption("--exactness", action="store_true", help="record the figures of docs/exactness.md")


def pytest_configure(config: pytest.Config) -> None:
    set_factor(config)
    config.pluginmanager.register(MachineReport(), "machine")
    config.pluginmanager.register(Collects(), "collects")
    page = config.getoption("reliability")
    if page is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(page), "reliability")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Never look for garbage among the collected objects, and seldom among later ones: this saves a twelfth of the
    processor time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(_NEW_OBJECTS, _ROUNDS, _ROUNDS)
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    add_rows(items)
    scale_timeouts(items, float(config.getini("timeout")))
