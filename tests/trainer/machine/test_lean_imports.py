"""A start imports only what it uses, and other imports still work. Each test runs in a new process, because an import cannot be undone."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

HEAVY = "flax", "jax._src.pallas.triton.lowering", "jax.experimental.pallas.ops.tpu.megablox", "optax.contrib._muon"


def modules_after(program: str) -> set[str]:
    """The heavy modules that a program imported, and the words that it printed."""
    code = f"{program}\nimport sys\nprint(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_a_start_does_not_import_the_unused_packages_of_haliax() -> None:
    lean = "from halcyon.machine.lean_imports import without_unused_parts\nwith without_unused_parts():\n    import halcyon.tasks.train\n"
    assert modules_after(lean) == set()
    assert modules_after("import halcyon.tasks.train") == set(HEAVY)  # else `lean_imports` has no purpose any more


def test_packages_left_out_at_the_start_can_be_used_later() -> None:
    later = """
from halcyon.machine.lean_imports import without_unused_parts
with without_unused_parts():
    import haliax, optax
from jax.experimental.pallas import triton
from jax.experimental.pallas.ops.tpu.megablox import gmm
from aqt.jax.v2.aqt_dot_general import DotGeneral
from optax.contrib import muon
assert isinstance(haliax.quantization.Int8DotGeneralOp.init().cfg, DotGeneral)
assert muon(0.1).init
"""
    assert modules_after(later) == set(HEAVY)


def test_a_start_does_not_read_the_metadata_of_all_packages() -> None:
    count = """
from importlib import metadata
reads, find = [], metadata.MetadataPathFinder.find_distributions
def counting(context=metadata.DistributionFinder.Context()):
    reads.extend([context] if context.name is None else [])
    return find(context)
import halcyon.process
metadata.MetadataPathFinder.find_distributions = counting
"""
    lean = """
from halcyon.machine.lean_imports import without_unused_parts
with without_unused_parts():
    import halcyon.tasks.train
assert not reads
assert list(metadata.distributions()) and reads
"""
    modules_after(count + lean)


def test_the_garbage_collector_is_off_during_imports_and_on_afterwards() -> None:
    program = """
import gc
from halcyon.machine.lean_imports import without_collections
before = gc.get_stats()
with without_collections():
    import halcyon.data.open
assert [one["collections"] for one in gc.get_stats()] == [one["collections"] for one in before]
assert gc.isenabled()
assert gc.get_freeze_count() > 50_000
"""
    assert modules_after(program) == set()
