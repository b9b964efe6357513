"""A restore skips a limited number of damaged checkpoints; it never silently takes an older one."""

from __future__ import annotations

import pytest

from halcyon.checkpoint import Limits, list_checkpoints
from halcyon.host.errors import NoValidCheckpoint
from halcyon_api.spec.checkpoint import PermanentSpec
from tests.trainer.checkpoint.helpers import (
    Root,
    fill,
    open_root,
    restore_newest,
    restore_right,
    snapshot_of,
    with_keep,
)


def damage(root: Root, *steps: int) -> None:
    """Reverse the bytes of a chunk of each of these steps."""
    for entry in list_checkpoints(root.spec).committed:
        if entry.step in steps:
            chunk = root.folder / entry.path / "data/weight/c/0/1"
            chunk.write_bytes(chunk.read_bytes()[::-1])


def test_three_damaged_checkpoints_are_skipped(file_root: Root) -> None:
    root = with_keep(file_root, 5)
    fill(root, 1, 2, 3, 4, 5)
    damage(root, 5, 4, 3)
    with open_root(root, expected_step=5) as checkpointer:
        restored = restore_right(checkpointer)
    assert restored.step == 2
    assert [bad.step for bad in restored.skipped] == [5, 4, 3]
    assert [bad["step"] for bad in root.head["bad"]] == [5, 4, 3]


def test_beyond_the_limit_nothing_is_restored_and_the_error_names_the_tried_checkpoints(file_root: Root) -> None:
    """The only valid checkpoint is a permanent one from the start of the run, so a restore of it would lose nearly all
    steps.
    """
    spec = file_root.spec.model_copy(update={"keep": 4, "permanent": [PermanentSpec(every_steps=1, until_step=1)]})
    root = Root(spec, file_root.folder)
    fill(root, 1, 20, 30, 40, 50)
    damage(root, 20, 30, 40, 50)
    before = {name: data for name, data in snapshot_of(root.folder).items() if name.startswith("steps/")}
    reason = "data/weight/c/0/1 does not have the hash that the manifest names"
    tried = "; ".join(f"step {step}: {reason}" for step in (50, 40, 30, 20))
    for _ in range(2):
        with open_root(root, expected_step=50) as checkpointer, pytest.raises(NoValidCheckpoint) as caught:
            restore_newest(checkpointer)
        assert str(caught.value) == (
            f"none of the 4 newest checkpoints in {root.spec.root} verifies ({tried}), and a run does not go further "
            "back by itself; restore the files from a backup, or copy an older one, such as step 1, to a root of its "
            "own (halcyon checkpoints copy) and set spec.checkpoint.root to that"
        )
        assert root.head["bad"] == []
        assert [entry["step"] for entry in root.head["committed"]] == [50, 40, 30, 20, 1]
    assert before == {name: data for name, data in snapshot_of(root.folder).items() if name.startswith("steps/")}


def test_the_number_of_skipped_checkpoints_is_configurable(file_root: Root) -> None:
    fill(file_root, 1, 2)
    damage(file_root, 2)
    with (
        open_root(file_root, limits=Limits(damaged_checkpoints=0)) as checkpointer,
        pytest.raises(NoValidCheckpoint, match="of the 1 newest"),
    ):
        restore_newest(checkpointer)
