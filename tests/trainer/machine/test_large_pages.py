"""A process that starts uses small pages; afterwards it, and the processes that it starts, use large ones again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.process_groups import run_document

CHOICES = """
import ctypes
from halcyon.machine.large_pages import allow_large_pages, small_pages

def small():
    return ctypes.CDLL(None).prctl(42, 0, 0, 0, 0)

{before}
chosen = [small()]
with small_pages():
    chosen.append(small())
    {inside}
    chosen.append(small())
chosen.append(small())
print(*chosen)
"""
PAGES_OF_TWO_MEGABYTES = """
import mmap, pathlib
from contextlib import nullcontext
from halcyon.machine.large_pages import small_pages

def large_kilobytes():
    block = mmap.mmap(-1, 16 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.MADV_HUGEPAGE)
    block.write(bytes(16 * 2**20))
    lines = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))

with small_pages():
    inside = large_kilobytes()
print(inside, large_kilobytes())
"""
TRAINING = """
import json, pathlib, sys
import halcyon

def enabled():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("THP_enabled"))

traced, steps = [], []

def traced_step(view):
    traced.append(enabled())
    return {}

hooks = halcyon.Hooks(in_step=traced_step, on_step=lambda report: steps.append(enabled()))
assert halcyon.train(json.loads(sys.argv[1]), hooks=hooks).complete
print(max(traced), *steps)
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this setting")


def printed(program: str, *arguments: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True)
    return [int(number) for number in done.stdout.split()]


def choices(*, before: str = "", inside: str = "pass") -> list[int]:
    """Whether large pages are disabled: before the block, in it, after `inside`, and after the block."""
    return printed(CHOICES.replace("{before}", before).replace("{inside}", inside))


@linux
def test_large_pages_are_disabled_in_the_block_alone() -> None:
    assert choices() == [0, 1, 1, 0]


@linux
def test_a_process_started_in_the_block_can_allow_them_again() -> None:
    assert choices(inside="allow_large_pages()") == [0, 1, 0, 0]


@linux
def test_a_choice_made_before_the_block_stays() -> None:
    assert choices(before="ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)") == [1, 1, 1, 1]


@linux
def test_memory_that_asks_for_large_pages_gets_small_ones_in_the_block() -> None:
    inside, after = printed(PAGES_OF_TWO_MEGABYTES)
    if not after:
        pytest.skip("this system has no large pages")
    assert inside == 0


@linux
@pytest.mark.slow
def test_a_training_has_small_pages_until_its_first_step_has_ended(tmp_path: Path) -> None:
    document = run_document(tmp_path / "root", slices=1, steps=4)
    assert printed(TRAINING, json.dumps(document)) == [0, 0, 1, 1, 1]
