"""The memory of a build grows by at most twelve times the length of a document."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[4]
MEMBER_CHARACTERS = 2**20
BUILD = """
import sys
from pathlib import Path
from tests.trainer.support.datasets import ensure_caches
from tests.trainer.data.cache.runs import spec_of
root, kind, path = sys.argv[1:]
cache = {"shardTokens": 2**22, "workers": 1}
ensure_caches(spec_of(root, [{"name": "web", kind: {"paths": [path]}}], data__cache=cache), process="p")
"""


def own_memory(root: Path, kind: str, path: Path) -> int:
    """Peak of the anonymous memory, in bytes, of a process that builds a cache."""
    child = subprocess.Popen([sys.executable, "-c", BUILD, f"file://{root}", kind, str(path)], cwd=REPOSITORY)
    most = 0
    while child.poll() is None:
        status = Path(f"/proc/{child.pid}/status").read_text()
        most = max(most, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)
        time.sleep(0.002)
    assert child.returncode == 0
    return most * 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "begin", "end"),
    [
        ("text", "c.txt.gz", b"", b""),
        pytest.param("jsonl", "c.jsonl.gz", b'{"text": "', b'"}\n', marks=pytest.mark.variant),
    ],
)
def test_a_longer_document_takes_so_much_more_memory(
    tmp_path: Path, kind: str, name: str, begin: bytes, end: bytes
) -> None:
    member = gzip.compress(b"thirty-two characters, more or so" * (MEMBER_CHARACTERS // 32), 1)
    found: list[int] = []
    for members in (24, 96):
        path = tmp_path / str(members) / name
        path.parent.mkdir()
        path.write_bytes(gzip.compress(begin) + member * members + gzip.compress(end))
        found.append(own_memory(tmp_path / str(members) / "root", kind, path))
    assert found[1] < found[0] + 48e6 + 12 * 72 * MEMBER_CHARACTERS, (
        f"{found[1] / 1e6:.0f} MB after {found[0] / 1e6:.0f} MB, for 72 million characters more"
    )
