"""Terminal output for a checkpoint root."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from halcyon.checkpoint.arrays import Checkpoint, LeafDifference
from halcyon.checkpoint.collect import Garbage
from halcyon.checkpoint.evidence import Chain
from halcyon.checkpoint.opening import Listing
from halcyon.checkpoint.retention import kept_as_best
from halcyon.commands.views.tables import FittedTable
from halcyon.host.storage.abilities import Ability
from halcyon_api.counting import counted
from halcyon_api.local_times import local_time


def listing_view(listing: Listing, now: datetime) -> RenderableType:
    """The contents of a root: the checkpoints that can be restored, newest first, then the others with the reason."""
    if listing.head is None:
        return Text("no checkpoint" + (f": {listing.head_damage}" if listing.head_damage else ""))
    head = listing.head
    table = FittedTable("step", "start", "saved", "size", "state", drops=("start", "size"))
    audited = max((entry.audited for entry in head.committed if entry.audited is not None), default=-1)
    for entry in listing.committed:
        words = {
            "newest": head.newest == entry,
            "pinned": entry.path in head.pinned,
            "verified": entry.verification == "passed",
            "confirmed": entry.step <= audited,
            "best": entry.path in kept_as_best(head.committed, 1),
        }
        table.add_row(
            str(entry.step),
            str(entry.epoch),
            age(entry.time, now),
            decimal(entry.size_bytes),
            Text(", ".join(word for word, holds in words.items() if holds), "green"),
        )
    for bad in listing.bad:
        table.add_row(str(bad.step), "", "", "", Text(f"damaged: {bad.reason}", "red"))
    for path in listing.unfinished:
        state = "being deleted" if path in head.deleting else "not committed"
        table.add_row(Text(path, "dim"), "", "", "", Text(state, "dim"))
    for back in head.skipped:
        left_out = f" and left out {counted(back.batches, 'batch', 'batches')}" if back.batches else ""
        left_out = f"went back here{left_out}: {back.reason}"
        table.add_row(str(back.step), str(back.epoch), "", "", Text(left_out, "yellow"))
    title = Text(f"{head.owner.namespace}/{head.owner.name}, start {head.epoch}")
    parts: list[RenderableType] = [title]
    if listing.head_damage:
        rebuilt = "this list is rebuilt from the checkpoints; the run does so when it starts again"
        parts.append(Text(f"{listing.head_damage}: {rebuilt}", "red"))
    elif head.rebuilt is not None:
        note = f"start {head.rebuilt.epoch} rebuilt HEAD from the checkpoints: {head.rebuilt.reason}"
        parts.append(Text(note, "yellow"))
    parts.append(table)
    if listing.older:
        parts.append(Text(f"{listing.older} older ones: --before {listing.committed[-1].step}"))
    return Group(*parts)


def checkpoint_view(checkpoint: Checkpoint) -> RenderableType:
    """One checkpoint: the run that made it, its position in the data, and its arrays."""
    manifest, entry = checkpoint.manifest, checkpoint.entry
    facts = Table.grid(padding=(0, 2))
    position = manifest.data_position
    mesh = ", ".join(f"{axis} {size}" for axis, size in manifest.mesh.items())
    for name, value in (
        ("step", f"{manifest.step:,}"),
        ("run", f"{manifest.owner.namespace}/{manifest.owner.name}"),
        ("start", str(manifest.epoch)),
        ("saved", local_time(manifest.time)),
        ("data", f"{counted(position.sequences, 'sequence')}, {counted(position.tokens, 'token')} seen"),
        ("seed", str(manifest.seed)),
        ("written by", f"{counted(manifest.process_count, 'process', 'processes')}, mesh {mesh}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))),
        ("size", f"{decimal(entry.size_bytes)} in {counted(len(manifest.files), 'file')} below {entry.path}"),
        ("manifest", entry.manifest_sha256),
    ):
        facts.add_row(Text(name, "bold"), value)
    table = FittedTable("array", "type", "shape", "chunk", numbers=("size",), drops=("chunk", "type"))
    for leaf in manifest.leaves:
        names = leaf.axes or ("",) * len(leaf.shape)
        shape = " ".join(f"{name} {size}".strip() for name, size in zip(names, leaf.shape, strict=True))
        chunk = " x ".join(map(str, leaf.chunk_shape)) if leaf.chunk_shape != leaf.shape else ""
        table.add_row(leaf.path, leaf.dtype, shape, chunk, decimal(checkpoint.size_bytes(leaf)))
    return Group(facts, table)


def damage_view(what: str, intact: str, damages: Sequence[str]) -> RenderableType:
    """The damage of something; or, in the given words, what was read and is intact."""
    if not damages:
        return Text(f"{what}: {intact}", "green")
    return Group(
        Text(f"{what}: {counted(len(damages), 'problem')}", "red"), *(Text(f"  {damage}") for damage in damages)
    )


def chain_sentence(chain: Chain) -> str:
    """What an intact chain of evidence says, in a few words."""
    if not chain.links:
        return "no link, because no training made the newest checkpoint"
    newest, oldest = chain.links[0], chain.links[-1]
    steps = f"steps {oldest.step - oldest.steps + 1:,} to {newest.step:,}" if newest.step else "step 0"
    others = f"; {counted(chain.others, 'link')} beside it, of what was given up" if chain.others else ""
    return f"{counted(len(chain.links), 'link')} for {steps}, each names the one before{others}"


def difference_view(differences: Iterable[LeafDifference]) -> RenderableType:
    """The arrays that differ between two checkpoints."""
    table = FittedTable("array", "what differs", numbers=("elements", "largest difference"))
    for array in differences:
        counts = (f"{array.elements:,} of {array.of:,}", f"{array.largest:.6g}") if array.of else ()
        table.add_row(array.path, array.what, *counts)
    return (
        table
        if table.row_count
        else Text(
            "every array is the same, bit for bit, as the hashes in the manifests say; verify reads the data", "green"
        )
    )


def garbage_view(garbage: Sequence[Garbage], *, deleted: bool) -> RenderableType:
    """The prefixes that were, or would be, deleted."""
    if not garbage:
        return Text("nothing to delete")
    table = FittedTable("deleted" if deleted else "would be deleted", "why")
    for part in garbage:
        table.add_row(part.path, part.why)
    return table


def abilities_view(root: str, abilities: Sequence[Ability]) -> RenderableType:
    """The abilities of a store, one line each."""
    table = FittedTable(root, "", numbers=("ms",))
    for ability in abilities:
        verdict = Text("yes", "green") if ability.problem is None else Text(ability.problem, "red")
        table.add_row(ability.name, verdict, f"{1000 * ability.seconds:.0f}")
    return table


def age(time: str, now: datetime) -> str:
    """Age of a time, such as ``5 min ago``. A text of a stranger's root that is no time is returned as it is."""
    try:
        seconds = int((now - datetime.fromisoformat(time)).total_seconds())
    except (ValueError, TypeError):  # the latter: it has no time zone
        return time
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{max(0, seconds)} s ago"
