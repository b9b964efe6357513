"""The check of a statement: its signature, and what the root shows now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halcyon.commands.attestation.deriving import Shown, image_of, misfit, statement, verdict
from halcyon.commands.attestation.documents import Envelope, Statement, Unacceptable, decode, parse, read_as, shown
from halcyon.host.errors import BadConfiguration
from halcyon_api.counting import counted

if TYPE_CHECKING:
    from halcyon.commands.attestation.signing import PublicKey

_MOST_NAMED = 5


@dataclass(frozen=True)
class Fact:
    """One thing that a statement says.

    Attributes:
        name: What it is about.
        holds: Whether it holds. None: nothing shows whether it does.
        words: What was found, as a sentence.
    """

    name: str
    holds: bool | None
    words: str


def open_statement(text: str, key: PublicKey | None) -> tuple[Statement, Fact]:
    """The statement of a file, and what is known about its signature.

    Args:
        text: The file: a statement, or an envelope.
        key: The public key that must have signed it. None: it must have no envelope.

    Raises:
        BadConfiguration: It is an envelope, and there is no key.
        Unacceptable: It is not signed by the key, or has another form.
    """
    value = parse(text)
    if not (isinstance(value, dict) and "payloadType" in value):
        if key is not None:
            raise Unacceptable("is not signed: it is no DSSE envelope")
        unsigned = "there is none, so nothing shows who states this"
        return decode(text, Statement), Fact("signature", None, unsigned)
    if key is None:
        raise BadConfiguration("the statement is signed; give the key that must have signed it with --public-key")
    from halcyon.commands.attestation.signing import open_envelope

    payload = open_envelope(read_as(value, Envelope), key)
    return decode(payload, Statement), Fact("signature", True, "it is by this key")


def facts(stated: Statement, root: Shown) -> Iterator[Fact]:
    """What holds of a statement, one fact after the other. Pure.

    Args:
        stated: The statement.
        root: What the root shows.
    """
    for damage in root.damages:
        yield Fact("root", False, damage)
    if not root.damages:
        checkpoints = counted(len(root.present), "checkpoint")
        links = counted(len(root.links), "link")
        written = f"every byte of {checkpoints} and of {links} is what was written"
        yield Fact("root", True, f"{written}; token caches: {root.caches}")
        yield Fact("history", True, root.history)
    predicate, head = stated.predicate, stated.predicate.chain.head
    place = next((place for place, (digest, _) in enumerate(root.links) if digest == head), None)
    if place is None:
        yield Fact("chain", False, f"the chain of the root does not have the link {head}")
        return
    links = root.links[place:]
    shows = statement(root.run, links, predicate.claims)
    later = "it is the newest one" if place == 0 else f"{counted(place, 'link')} followed"
    chain = f"the chain of the root has the link of step {links[0][1].step} that the statement ends with; {later}"
    is_chain = predicate.chain == shows.predicate.chain
    yield Fact("chain", is_chain, chain if is_chain else "the statement has another number of links, or other steps")
    yield from _subjects(stated, shows, root)
    for name, now, then in (
        ("run", shows.predicate.run, predicate.run),
        ("document", shows.predicate.document_, predicate.document_),
        ("data", shows.predicate.data, predicate.data),
        ("computed", shows.predicate.computed, predicate.computed),
    ):
        yield Fact(name, now == then, _PREDICATE[name][now != then])
    for record in predicate.claims.replays:
        problem = misfit(record, root.run, links)
        yield Fact("replay", None if problem is None else False, problem or verdict(record))
    if (image := predicate.claims.image) is not None:
        is_whole = image == image_of(image.name)
        words = f"the document named {shown(image.name)}" if is_whole else "it has another digest than its name"
        yield Fact("image", None if is_whole else False, words)


_PREDICATE = {
    "run": ("the root belongs to this run", "the root belongs to another run"),
    "document": ("the chain has its digests", "the chain has other digests of the document"),
    "data": ("the chain has its digest", "the chain has another digest of the data"),
    "computed": ("the chain has this hardware and these versions", "the chain has other hardware, meshes or versions"),
}
"""What is said of a member that is equal, and of one that is not."""


def _subjects(stated: Statement, shows: Statement, root: Shown) -> Iterator[Fact]:
    """The facts about the checkpoints."""
    if stated.subject == shows.subject:
        count = counted(len(stated.subject), "checkpoint")
        here = sum(f"{subject.name}/" in root.present for subject in stated.subject)
        yield Fact("subjects", True, f"the chain has the digest of {count}, and the root still has {here:,} of them")
        return
    digests = {subject.name: subject.digest for subject in shows.subject}
    wrong = [
        f"{shown(subject.name)} has another digest in the chain, or is not in it"
        for subject in stated.subject
        if digests.get(subject.name) != subject.digest
    ]
    for words in wrong[:_MOST_NAMED] or ["the chain has other checkpoints, or has them in another order"]:
        yield Fact("subjects", False, words)
