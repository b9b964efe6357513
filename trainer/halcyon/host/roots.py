"""Begins a run again in a root that has checkpoints: what the user may do, and ``halcyon train --fresh``."""

from pathlib import Path

from halcyon.host.documents import local_paths
from halcyon.host.errors import BadConfiguration, RootUnusable
from halcyon_api.checkpoint_documents import DATA_PREFIX, HEAD_KEY
from halcyon_api.edits.branch import BRANCH
from halcyon_api.spec.checkpoint import parse_root
from halcyon_api.training_run import TrainingRunSpec


def ways_out(root: str) -> str:
    """How a changed run may begin, whose root has checkpoints of the run before the change: the end of a sentence."""
    fresh = "begin again with halcyon train --fresh, or " if root.startswith("file://") else ""
    return f"set it back to go on, or {fresh}{BRANCH}"


def move_aside(spec: TrainingRunSpec, document: Path) -> Path | None:
    """Rename the folder of a run's checkpoint root, so that the run begins again. Nothing is deleted.

    Args:
        spec: The run's spec.
        document: Path of its document.

    Returns:
        The new path of the folder; None: there is no run in the root.

    Raises:
        BadConfiguration: The run does not train; or the root is not a folder of this machine, or holds files that the
            run needs.
        RootUnusable: The folder cannot be renamed.
    """
    root = spec.checkpoint.root
    if spec.task != "train":
        raise BadConfiguration(f"--fresh: only a training begins again, and spec.task is {spec.task}; leave it out")
    if not root.startswith("file://"):
        raise BadConfiguration(
            f"--fresh: it renames a folder, and spec.checkpoint.root is {root}; give the run a root of its own there"
        )
    folder = Path(parse_root(root).path)
    if not (folder / HEAD_KEY).exists() and not (folder / DATA_PREFIX).exists():
        return None
    for needed in (document, *map(Path, local_paths(spec).values())):
        if needed.absolute().is_relative_to(folder):
            raise BadConfiguration(
                f"--fresh: it renames {folder}, where {needed} is, too; give spec.checkpoint.root a folder of its own"
            )
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    try:
        return folder.rename(aside)
    except OSError as error:
        raise RootUnusable(f"--fresh: {folder} cannot be renamed: {error.strerror}; rename it yourself") from None
