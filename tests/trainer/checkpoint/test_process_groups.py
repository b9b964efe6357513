"""Several processes on one root: they share data only through the root, and restore checkpoints of any number of
processes.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from halcyon.checkpoint import list_checkpoints
from halcyon.checkpoint.verify import find_damage
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import Manifest
from halcyon_api.ends import ExitCode
from tests.ports import free_port
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root, fill, open_root, restore_right, snapshot_of
from tests.trainer.checkpoint.processes import Child

pytestmark = pytest.mark.slow

BY_ROWS = {"weight": ["fsdp"], "half": [None, "fsdp"], "bias": [], "counts": ["fsdp"]}
BY_COLUMNS = {"weight": [None, "tensor"], "half": ["tensor"], "bias": ["tensor"], "counts": []}


class WriterGroup:
    """Real processes of one JAX process group, each with its share of the devices."""

    def __init__(self, root: Root, count: int, **options: Any) -> None:
        roots = options.pop("roots", {})
        common = {
            "coordinator": f"127.0.0.1:{free_port()}",
            "count": count,
            "devices": 4 // count,
            "mesh": [4, 1],
            "steps": 0,
        } | options
        self._stack = contextlib.ExitStack()
        self.children = [
            self._stack.enter_context(Child("member", roots.get(index, root), **common, index=index))
            for index in range(count)
        ]

    def run(self) -> list[int]:
        """Wait for all processes; returns their exit codes."""
        return [child.end() for child in self.children]

    def events_of(self, event: str) -> list[list[dict[str, Any]]]:
        """The events of a kind, by process."""
        return [[one for one in child.events if one["event"] == event] for child in self.children]

    def __enter__(self) -> WriterGroup:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


REPLICATED: dict[str, list[str]] = {name: [] for name in ("bias", "counts", "half", "scale", "weight")}
HALVES: dict[str, list[Any]] = {"weight": ["fsdp"], "half": [None, "fsdp"], "bias": ["fsdp"], "counts": ["fsdp"]}


@pytest.mark.parametrize(
    ("kind", "grid", "shardings"),
    [
        pytest.param("file", [1, 4], REPLICATED, id="file-data parallel"),
        pytest.param("s3", [2, 2], HALVES, id="s3-hybrid"),
        pytest.param("s3", [1, 4], REPLICATED, id="s3-data parallel", marks=pytest.mark.variant),
        pytest.param("file", [2, 2], HALVES, id="file-hybrid", marks=pytest.mark.variant),
    ],
)
def test_every_replica_writes_its_share_and_reads_it_for_the_others(
    request: pytest.FixtureRequest, kind: str, grid: list[int], shardings: dict[str, list[Any]]
) -> None:
    """All arrays replicated over four processes, or split in two with two replicas: each process writes and reads about
    a quarter.
    """
    root: Root = request.getfixturevalue(f"{kind}_root")
    options: dict[str, Any] = {"mesh": grid, "shardings": shardings, "chunkBytes": 64, "tellFiles": True}
    with WriterGroup(root, 4, steps=2, **options) as group:
        assert group.run() == [0] * 4, group.children[0].noise()
        wrote = [events[-1]["files"] for events in group.events_of("wrote")]
    newest = list_checkpoints(root.spec).committed[0]
    assert find_damage(Store(root.spec), newest) == ()
    manifest = Manifest.model_validate_json((root.folder / newest.path / "MANIFEST.json").read_bytes())
    assert sorted(path for files in wrote for path in files) == [file.path for file in manifest.files], (
        "each file by one process"
    )
    sizes = [sum(size for path, size in files.items() if "/c" in path) for files in wrote]
    assert max(sizes) - min(sizes) <= 2 * (64 + 4), "the sizes differ by at most two chunks"
    metadata = [sum("zarr.json" in path for path in files) for files in wrote]
    assert metadata == [2] * 4

    with WriterGroup(root, 4, **options) as group:
        assert group.run() == [0] * 4, group.children[0].noise()
        assert group.events_of("restored") == [[{"event": "restored", "step": 2, "right": True, "skipped": []}]] * 4
        reads = [events[-1]["files"] for events in group.events_of("read")]
    assert sorted(path for paths in reads for path in paths) == [file.path for file in manifest.files], (
        "each file by one process"
    )
    assert max(map(len, reads)) - min(map(len, reads)) <= 4

    with open_root(root) as checkpointer:
        restored = restore_right(checkpointer)
    assert restored.step == 2


def test_all_processes_agree_on_damage_that_one_of_them_reads(file_root: Root) -> None:
    with WriterGroup(file_root, 4, mesh=[1, 4], shardings=REPLICATED, chunkBytes=64, steps=2) as group:
        assert group.run() == [0] * 4
    newest = list_checkpoints(file_root.spec).committed[0]
    chunk = file_root.folder / newest.path / "data/weight/c/3/0"
    chunk.write_bytes(chunk.read_bytes()[::-1])
    with WriterGroup(file_root, 4, mesh=[2, 2], shardings=HALVES) as group:
        assert group.run() == [0] * 4
        reason = "data/weight/c/3/0 does not have the hash that the manifest names"
        assert (
            group.events_of("restored") == [[{"event": "restored", "step": 1, "right": True, "skipped": [reason]}]] * 4
        )


def test_all_processes_fall_back_together_when_one_finds_damage(file_root: Root) -> None:
    with WriterGroup(file_root, 4, steps=2, shardings=BY_ROWS) as group:
        assert group.run() == [0] * 4
    newest = list_checkpoints(file_root.spec).committed[0]
    chunk = file_root.folder / newest.path / "data/weight/c/3/0"  # only process 3 needs it
    chunk.write_bytes(chunk.read_bytes()[::-1])
    with WriterGroup(file_root, 4, shardings=BY_ROWS) as group:
        assert group.run() == [0] * 4
        reason = "data/weight/c/3/0 does not have the hash that the manifest names"
        assert (
            group.events_of("restored") == [[{"event": "restored", "step": 1, "right": True, "skipped": [reason]}]] * 4
        )
    assert [bad["reason"] for bad in file_root.head["bad"]] == [reason]


def test_a_process_that_writes_no_part_is_named(file_root: Root) -> None:
    with WriterGroup(file_root, 4, steps=1, seconds=3, absent=[2, 0]) as group:
        codes = group.run()
        assert [codes[index] for index in (0, 1, 3)] == [ExitCode.FAILURE] * 3
        ends = [child.events[-1]["text"] for child in (group.children[0], group.children[1])]
    assert "step 1 was not saved: checkpoint root" in ends[0]
    assert f"process 2 of 4 wrote no part within {limit(3)} s" in ends[0]
    assert "process 0 gave up the checkpoint" in ends[1] or f"process 0 did not commit within {limit(3)} s" in ends[1]
    assert list_checkpoints(file_root.spec).committed == ()
    assert not [name for name in snapshot_of(file_root.folder) if name.endswith("COMMIT")]


def test_a_fenced_start_has_the_same_error_on_every_process(file_root: Root) -> None:
    fill(file_root, 1)
    with WriterGroup(file_root, 4, epoch=[0, 0]) as group:
        assert group.run() == [ExitCode.FENCED] * 4
        assert len({json.dumps(ended) for ended in group.events_of("ended")}) == 1


def test_a_folder_that_the_hosts_do_not_share_is_refused(file_root: Root) -> None:
    apart = Root(file_root.spec.model_copy(update={"root": f"{file_root.spec.root}-of-another-host"}), file_root.folder)
    with WriterGroup(file_root, 2, mesh=[2, 2], roots={1: apart}) as group:
        assert group.run() == [ExitCode.ROOT_UNUSABLE] * 2
        text = group.children[0].events[-1]["text"]
    assert "process 1 of 2 does not see the checkpoint root" in text
    assert "mount one shared volume on all hosts with spec.checkpoint.volumeClaim" in text
