"""The command ``halcyon checkpoints``: inspect and maintain a checkpoint root, whether its run is active or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.filesize import decimal

from halcyon.commands.errors import about_file, console, report_root_errors
from halcyon.commands.options import AtLeast0, AtLeast1, Commands, Json, StoreSettings, print_json
from halcyon.host.errors import BadConfiguration
from halcyon_api.base import InvalidRun
from halcyon_api.checkpoint_documents import CommittedStep, Owner
from halcyon_api.counting import counted
from halcyon_api.ends import ExitCode
from halcyon_api.local_roots import root_address
from halcyon_api.plain_files import user_path
from halcyon_api.reading import load_run
from halcyon_api.spec.checkpoint import CheckpointSpec

if TYPE_CHECKING:
    from halcyon.host.storage.store import Store

app = Commands("List, verify, compare, pin, copy and average the checkpoints of a run.")

RootArgument = Annotated[
    str,
    typer.Argument(
        help="The root, such as s3://bucket/run or its directory, or the run document that names it.",
        metavar="ROOT|RUN.YAML",
    ),
]
_StepArgument = Annotated[int, typer.Argument(min=0)]
Step = Annotated[int | None, typer.Option(min=0, help="The step. Default: the newest checkpoint.")]


@app.command("list")
def list_(
    place: RootArgument,
    *,
    limit: AtLeast1 = 100,
    before: AtLeast0 | None = None,
    settings: StoreSettings,
    as_json: Json = False,
) -> None:
    """List the checkpoints in a root: those that can be restored, and the others with the reason.

    Args:
        limit: Largest number of committed checkpoints on a page, the newest first.
        before: Only checkpoints before this step: the next page.
    """
    from halcyon.checkpoint.opening import list_checkpoints
    from halcyon.commands.views.checkpoints import listing_view

    with report_root_errors():
        listing = list_checkpoints(
            root_spec(place, settings), limit=None if as_json else limit, before=None if as_json else before
        )
        document = {
            "head": listing.head.document() if listing.head else None,
            "headDamage": listing.head_damage,
            "unfinished": listing.unfinished,
        }
        _print(listing_view(listing, datetime.now(UTC)), as_json and document)


@app.command()
def show(
    place: RootArgument,
    *,
    step: Step = None,
    settings: StoreSettings,
    as_json: Json = False,
) -> None:
    """Show one checkpoint: the attempt that made it, its position in the data, and its arrays."""
    from halcyon.checkpoint.arrays import Checkpoint
    from halcyon.commands.views.checkpoints import checkpoint_view

    with report_root_errors():
        checkpoint = Checkpoint(*_opened(place, step, settings))
        document = {"entry": checkpoint.entry.document(), "manifest": checkpoint.manifest.document()}
        _print(checkpoint_view(checkpoint), as_json and document)


@app.command()
def verify(
    place: RootArgument,
    *,
    step: Step = None,
    every: Annotated[bool, typer.Option("--all")] = False,
    settings: StoreSettings,
    as_json: Json = False,
) -> None:
    """Read HEAD, the chain of evidence, the ledgers of token caches, and every byte of a checkpoint and of the history,
    and report all damage.

    Exits with 1 if there is any.

    Args:
        every: All checkpoints.
    """
    from halcyon.checkpoint.collect import unlisted_commits
    from halcyon.checkpoint.opening import committed_steps, entry_of
    from halcyon.checkpoint.verify import find_damage
    from halcyon.commands.attestation.caches import read_caches
    from halcyon.commands.views.checkpoints import chain_sentence, damage_view
    from halcyon.telemetry.history.checking import read_evidence

    with report_root_errors():
        store = root_store(place, settings)
        committed = committed_steps(store)
        entries = committed if every else (entry_of(store, step),)
        shown = read_evidence(store)
        found: dict[str, list[str]] = {}
        say = (lambda _: None) if as_json else _print

        def read(what: str, says: str, damages: Sequence[str]) -> None:
            found.setdefault(what, []).extend(damages)  # two starts may have saved one step
            say(damage_view(what, says, damages))

        if shown.head_damage:
            found["HEAD"] = [shown.head_damage]
            say(
                f"{shown.head_damage}; the checkpoints below are found without it, and the run rebuilds it when it "
                "starts again"
            )
        for entry in entries:
            size = decimal(entry.size_bytes)
            read(f"step {entry.step}", f"every byte is what was written ({size})", find_damage(store, entry))
        others = len(committed) - len(entries)
        if others:
            say(f"not read: {counted(others, 'other checkpoint')}; --all reads them too")
        if not shown.head_damage:
            read("HEAD", "it lists every committed checkpoint", unlisted_commits(store))
        read("evidence", chain_sentence(shown.chain), shown.chain.damages)
        read("history", shown.says, shown.damages)
        read("token caches", *read_caches(store))
        intact = not any(found.values())
        if as_json:
            print_json({"intact": intact, "problems": found, "checkpointsNotRead": others})
    if not intact:
        raise typer.Exit(ExitCode.FAILURE)


@app.command()
def diff(
    place: RootArgument,
    first: _StepArgument,
    second: _StepArgument,
    *,
    other: str | None = None,
    settings: StoreSettings,
    as_json: Json = False,
) -> None:
    """List the arrays that differ between two checkpoints, and by how much. Exits with 1 if any array differs.

    Args:
        first: The first step.
        second: The second step.
        other: The root, or run document, of the second step. Default: the same.
    """
    from halcyon.checkpoint.arrays import Checkpoint, compare
    from halcyon.commands.views.checkpoints import difference_view

    with report_root_errors():
        before = Checkpoint(*_opened(place, first, settings))
        after = Checkpoint(*_opened(place if other is None else other, second, settings))
        differences = list(compare(before, after))
        # JSON has no NaN and no infinity.
        rows = [asdict(one) | ({} if isfinite(one.largest) else {"largest": None}) for one in differences]
        _print(difference_view(differences), as_json and {"differences": rows})
    if differences:
        raise typer.Exit(ExitCode.FAILURE)


@app.command()
def pin(
    place: RootArgument,
    *,
    step: Step = None,
    settings: StoreSettings,
) -> None:
    """Pin a checkpoint, so that no later save deletes it. The run may be active."""
    from halcyon.checkpoint.head import edit, with_pin

    with report_root_errors():
        store, entry = _opened(place, step, settings)
        try:
            edit(store, lambda head: with_pin(head, entry.path))
        except KeyError:
            raise BadConfiguration(f"step {entry.step} was deleted meanwhile; pin a newer one") from None
        _print(f"step {entry.step} is pinned")


@app.command()
def unpin(
    place: RootArgument,
    *,
    step: Step = None,
    settings: StoreSettings,
) -> None:
    """Remove a pin. From the run's next save on, the checkpoint may be deleted like any other."""
    from halcyon.checkpoint.head import edit, without_pin

    with report_root_errors():
        store, entry = _opened(place, step, settings)
        edit(store, lambda head: without_pin(head, entry.path))
        _print(f"step {entry.step} is not pinned")


@app.command()
def gc(
    place: RootArgument,
    *,
    dry_run: bool = False,
    settings: StoreSettings,
    as_json: Json = False,
) -> None:
    """Delete files that can never be restored: of checkpoints deleted in part, and of writers that have lost the
    root.

    Args:
        dry_run: Delete nothing; only list what would be deleted.
    """
    from halcyon.checkpoint.collect import Garbage, delete_checkpoint, garbage
    from halcyon.checkpoint.evidence import segments_of
    from halcyon.checkpoint.opening import load_head
    from halcyon.commands.views.checkpoints import garbage_view
    from halcyon.telemetry.history.reading import list_segments

    with report_root_errors():
        store = root_store(place, settings)
        orphans, named = garbage(store), segments_of(store, load_head(store)[0])
        left = [name.key for name in list_segments(store)[1] if name.key not in named]
        merged = tuple(Garbage(key, "merged into another file of the history") for key in left)
        if not dry_run:
            for orphan in orphans:
                delete_checkpoint(store, orphan.path)
            for file in merged:
                store.delete(file.path)
        found = (*orphans, *merged)
        document = {"deleted": not dry_run, "garbage": [asdict(one) for one in found]}
        _print(garbage_view(found, deleted=not dry_run), as_json and document)


@app.command()
def copy(
    place: RootArgument,
    to: str,
    *,
    step: Step = None,
    run: str | None = None,
    to_endpoint: str | None = None,
    to_region: str | None = None,
    settings: StoreSettings,
) -> None:
    """Copy a checkpoint to an empty root, and verify it during the copy.

    Args:
        to (TO): An empty root to copy to.
        run: NAMESPACE/NAME of the run that may resume from it. Default: the same run.
        to_endpoint: Address of the S3-compatible store of the new root.
        to_region: Region of the new root's bucket.
    """
    from halcyon.commands.copy_checkpoint import copy_checkpoint

    with report_root_errors():
        namespace, _, name = (run or "").partition("/")
        if run is not None and not (namespace and name):
            raise BadConfiguration(f"--run: give NAMESPACE/NAME, not {run!r}")
        store, entry = _opened(place, step, settings)
        target = root_store(root_address(to), StoreSettings(to_endpoint, to_region))
        head = copy_checkpoint(store, entry, target, owner=Owner(namespace=namespace, name=name) if run else None)
        _print(f"step {entry.step} is in {target.root}, for the run {head.owner.namespace}/{head.owner.name}")


def root_spec(place: str, settings: StoreSettings) -> CheckpointSpec:
    """The address of a root: from a run document, or from an address or a directory.

    Raises:
        BadConfiguration: It is neither.
    """
    from pydantic import ValidationError

    from halcyon.weights.model_file import read_model

    try:
        if "://" not in place and not (path := user_path(place)).is_dir():
            if not path.exists() and path.suffix not in (".yaml", ".yml"):
                raise BadConfiguration(
                    f"there is no folder {place}; give a checkpoint root, or the path of a TrainingRun document"
                )
            return load_run(path, read_model).spec.checkpoint
        return CheckpointSpec(root=root_address(place), **vars(settings))
    except InvalidRun as error:
        raise BadConfiguration(about_file(place, str(error))) from None
    except ValidationError as error:
        raise BadConfiguration(f"{place}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def root_store(place: str, settings: StoreSettings) -> Store:
    """The root that a command line names; raises as `root_spec` does."""
    from halcyon.host.storage.store import Store

    return Store(root_spec(place, settings))


def _opened(place: str, step: int | None, settings: StoreSettings) -> tuple[Store, CommittedStep]:
    """A root and one of its checkpoints; the newest without a step."""
    from halcyon.checkpoint.opening import entry_of

    store = root_store(place, settings)
    return store, entry_of(store, step)


def _print(view: object, document: Mapping[str, object] | Literal[False] = False) -> None:
    """Print a view, or the document of `Json`."""
    if document is False:
        console().print(view)
    else:
        print_json(document)
