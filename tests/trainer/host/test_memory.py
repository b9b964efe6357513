"""The memory of machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from halcyon.host.memory import machine_memory


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/meminfo": "MemTotal:  1000 kB\nMemFree: 5 kB\n"}, 1_024_000),
        ({"proc/meminfo": "MemTotal:  1000 kB\n", "sys/fs/cgroup/memory.max": "4096\n"}, 4096),
        ({"proc/meminfo": "MemTotal:  1000 kB\n", "sys/fs/cgroup/memory.max": "max\n"}, 1_024_000),
        (
            {
                "proc/meminfo": "MemTotal:  1000 kB\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            1_024_000,
        ),
    ],
)
def test_the_memory_of_a_machine_and_of_a_container(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert machine_memory(tmp_path) == limit
