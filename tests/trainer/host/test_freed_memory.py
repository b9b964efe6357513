"""A process that keeps freed memory needs new pages only for its first blocks."""

from __future__ import annotations

import subprocess
import sys

import jax
import pytest

from halcyon.parallel import process_group
from halcyon.parallel.process_group import join

PAGE_FAULTS = """
import resource, sys, threading
from halcyon.host.linux import freed_memory_kept, keep_freed_memory

BLOCK_BYTES, BLOCKS = 48 * 2**20, 10

def allocate():
    for _ in range(2):
        bytearray(BLOCK_BYTES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(BLOCKS):
        bytearray(BLOCK_BYTES)
    shares.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / (BLOCK_BYTES * BLOCKS))

shares = []
{setting}
allocate()
other = threading.Thread(target=allocate)
other.start()
other.join()
print(*shares)
"""
FOR_A_WHILE = "with freed_memory_kept(): bytearray(BLOCK_BYTES)"


def new_pages(setting: str) -> list[float]:
    """The share of the bytes of repeated blocks that needed new pages: in the main thread, and in another thread."""
    command = [sys.executable, "-c", PAGE_FAULTS.replace("{setting}", setting)]
    return [
        float(share) for share in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
@pytest.mark.parametrize(
    "setting", ["keep_freed_memory()", f"keep_freed_memory()\n{FOR_A_WHILE}"], ids=["alone", "with a block inside"]
)
def test_a_process_that_keeps_freed_memory_uses_its_pages_again(setting: str) -> None:
    assert all(share < 0.05 for share in new_pages(setting))


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_other_processes_return_their_memory_after_the_block() -> None:
    # Half, because a page may be a large one in one of the processes and not in the other.
    assert all(after > usual / 2 > 0 for after, usual in zip(new_pages(FOR_A_WHILE), new_pages(""), strict=True))


@pytest.mark.parametrize("on_processor", [True, False])
def test_only_processes_that_compute_on_the_processor_keep_freed_memory(
    monkeypatch: pytest.MonkeyPatch, on_processor: bool
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(process_group, "keep_freed_memory", lambda: calls.append(None))
    join(None, 0, 1, jax.device_count() if on_processor else None)
    assert len(calls) == on_processor
