"""What the root of a run shows, and the statement that follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from halcyon.commands.attestation import documents
from halcyon.host.errors import BadConfiguration
from halcyon_api.checkpoint_documents import Link, canonical_json
from halcyon_api.replays import ReplayRecord
from halcyon_api.training_run import TrainingRun

if TYPE_CHECKING:
    from halcyon.host.storage.store import Store

_DATA = "data"
"""Section of the fingerprints that describes the contents of the data."""
_DIGEST = "@sha256:"


@dataclass(frozen=True)
class Shown:
    """What a root shows.

    Attributes:
        run: NAMESPACE/NAME of its run.
        links: Its chain, the newest link first, each with its hash.
        present: Prefixes of the checkpoints that it still has.
        damages: What is wrong with it, one sentence for each fault; empty: all was read, and is what was written.
        history: What was read of the history, and what of it no link covers.
        caches: What was read of the token caches.
    """

    run: str
    links: tuple[tuple[str, Link], ...]
    present: frozenset[str]
    damages: tuple[str, ...]
    history: str = ""
    caches: str = ""


def read_root(store: Store, run: TrainingRun | None) -> Shown:
    """Read HEAD, the chain of evidence, the history, the ledgers of token caches, and every byte of each checkpoint.

    Args:
        store: The root.
        run: The document that is said to be that of the run. None: none is.

    Raises:
        BadConfiguration: The root has no checkpoint.
        NoValidCheckpoint: HEAD is damaged and cannot be rebuilt.
        StoreFailure: The store did not answer.
    """
    from halcyon.checkpoint.collect import unlisted_commits
    from halcyon.checkpoint.evidence import hash_of
    from halcyon.checkpoint.opening import load_head
    from halcyon.checkpoint.verify import find_damage
    from halcyon.commands.attestation.caches import read_caches
    from halcyon.telemetry.history.checking import read_evidence

    evidence = read_evidence(store)
    head, chain = evidence.head, evidence.chain
    if head is None or not head.committed:
        raise BadConfiguration(f"{store.root} holds no checkpoint")
    found = {entry.path: (entry.step, find_damage(store, entry)) for entry in head.committed}
    after, _ = load_head(store)
    present = frozenset() if after is None else frozenset(found) & {entry.path for entry in after.committed}
    damages = [] if evidence.head_damage is None else [evidence.head_damage]
    for path, (step, faults) in found.items():
        if path in present:  # a run that trains deletes checkpoints while they are read
            damages += (f"step {step}: {fault}" for fault in faults)
    caches, of_caches = read_caches(store)
    damages += (*unlisted_commits(store), *chain.damages, *evidence.damages, *of_caches)
    if not chain.links:
        damages.append("the newest checkpoint has no link in a chain of evidence, because no training made it")
    if run is not None and not damages:
        damages += other_document(store, run)
    return Shown(
        run=f"{head.owner.namespace}/{head.owner.name}",
        links=tuple((hash_of(link), link) for link in chain.links),
        present=present,
        damages=tuple(damages),
        history=evidence.says,
        caches=caches,
    )


def other_document(store: Store, run: TrainingRun) -> list[str]:
    """In what a document differs from that of the newest checkpoint, as far as it decides numbers."""
    from halcyon.checkpoint.fingerprints import differences, fingerprints, planned_steps, with_steps
    from halcyon.checkpoint.opening import entry_of
    from halcyon.checkpoint.verify import read_manifest
    from halcyon.weights.chat_template import with_templates
    from halcyon_api.checkpoint_documents import Fingerprints

    then = read_manifest(store, entry_of(store, None)).fingerprints
    now = fingerprints(with_templates(run.spec), data={})
    if (steps := planned_steps(then)) is not None:
        now = with_steps(now, steps)  # a run may get more steps
    spec = [
        Fingerprints(
            sections={name: value for name, value in each.sections.items() if name != _DATA},
            documents={name: value for name, value in each.documents.items() if name != _DATA},
        )
        for each in (now, then)
    ]
    return [
        f"the document is not that of the run: {documents.shown(clause)}; give --defaults and --set as for the training"
        for clause in differences(*spec)
    ]


def statement(run: str, links: Sequence[tuple[str, Link]], claims: documents.Claims) -> documents.Statement:
    """The statement about a chain. Pure.

    Args:
        run: NAMESPACE/NAME of the run.
        links: The chain, the newest link first, each with its hash; at least one.
        claims: What the chain does not show.
    """
    (head, newest), (_, oldest) = links[0], links[-1]
    sections = {name: digest for name, digest in newest.sections.items() if name != _DATA}
    data = newest.sections.get(_DATA)
    return documents.Statement(
        type_=documents.STATEMENT_TYPE,
        subject=tuple(
            documents.Subject(name=link.path.rstrip("/"), digest=documents.Digest(sha256=link.state))
            for _, link in links
        ),
        predicate_type=documents.PREDICATE_TYPE,
        predicate=documents.Predicate(
            run=run,
            document_=documents.Sections(
                sha256=hashlib.sha256(canonical_json(sections)).hexdigest(), sections=sections
            ),
            data=None if data is None else documents.Digest(sha256=data),
            chain=documents.StatedChain(
                head=head, links=len(links), first=_before(oldest), last=newest.step, audited=newest.audited
            ),
            computed=tuple(_computed([link for _, link in links])),
            claims=claims,
        ),
    )


def image_of(name: str) -> documents.Image:
    """An image by its name, with the digest in the name. Pure."""
    _, found, digest = name.partition(_DIGEST)
    is_whole = bool(found) and len(digest) == 64 and not set(digest) - set("0123456789abcdef")
    return documents.Image(name=name, digest=documents.Digest(sha256=digest) if is_whole else None)


def misfit(record: ReplayRecord, run: str, links: Sequence[tuple[str, Link]]) -> str | None:
    """Why the record of a replay is not one of a chain, as a clause; None: it is one. Pure.

    Args:
        record: The record.
        run: NAMESPACE/NAME of the run.
        links: The chain, the newest link first, each with its hash.
    """
    steps = {link.step for _, link in links}
    head = next((link for digest, link in links if digest == record.chain), None)
    if record.run != run:
        return f"it is of the run {documents.shown(record.run)}, not of {run}"
    if head is None:
        return "the chain does not have the link that was its newest one then"
    if record.first not in steps or not record.first < record.last <= head.step:
        return f"the chain did not have steps {record.first + 1} to {record.last} then"
    if record.identical != (record.first_different_step is None and not record.different_arrays):
        return "its verdict is not what it has found"
    if record.compared_steps > record.last - record.first or not (record.compared_steps or record.state_compared):
        return "it has not compared what it says"
    return None


def verdict(record: ReplayRecord) -> str:
    """What a replay has found, as a sentence. Pure."""
    found = "identical" if record.identical else "close" if record.confirms else "different"
    steps = f"steps {record.first + 1} to {record.last}"
    state = "and the last state" if record.state_compared else "but not the last state"
    place = f"on {documents.shown(record.hardware)} at {record.time}"
    return f"{steps} were replayed {place}: {found}; {record.compared}, {state}"


def _before(link: Link) -> int:
    """Steps done before a link."""
    return max(0, link.step - link.steps)


def _computed(links: Sequence[Link]) -> Iterator[documents.Computed]:
    """The makers of links, with neighbours of the same maker joined."""
    for (hardware, mesh, versions), same in groupby(links, lambda link: (link.hardware, link.mesh, link.versions)):
        made = list(same)
        yield documents.Computed(
            first=_before(made[-1]), last=made[0].step, hardware=hardware, mesh=dict(mesh), versions=dict(versions)
        )
