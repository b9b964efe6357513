"""The command ``halcyon prove``: states what the root of a run shows, in a form that others can check, and checks it.

The root is only read, and no file of it is executed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from halcyon.commands.checkpoints import RootArgument, root_spec, root_store
from halcyon.commands.errors import console, report_root_errors
from halcyon.commands.options import Changes, StoreSettings, require_folder, resolved, text_of
from halcyon.host.errors import BadConfiguration, TrainerExit
from halcyon_api.counting import counted
from halcyon_api.ends import ExitCode
from halcyon_api.plain_files import user_path
from halcyon_api.printable import printable
from halcyon_api.training_run import TrainingRun

if TYPE_CHECKING:
    from halcyon.host.storage.store import Store
    from halcyon_api.replays import ReplayRecord

_VERDICTS = {True: ("holds", "green"), False: ("wrong", "red"), None: ("only stated", "yellow")}


def prove(
    place: RootArgument,
    *,
    replays: Annotated[list[Path] | None, typer.Option("--replay")] = None,
    key: Path | None = None,
    output: Path | None = None,
    check: Path | None = None,
    public_key: Path | None = None,
    changes: Changes,
    settings: StoreSettings,
) -> None:
    """State what was computed, by what, and which steps were replayed, as an in-toto statement; or check one.

    Only reads the root: its chain of evidence, its history, and every byte of its checkpoints. Exits with 1 if the root
    or the statement does not hold.

    Args:
        replays (FILE): A record of `halcyon replay --record`; may be repeated.
        key (KEY.PEM): Sign with this private key, of Ed25519 or ECDSA. HALCYON_KEY_PASSPHRASE has its passphrase.
        output (FILE): Write the statement here. Default: standard output.
        check (FILE): Check this statement against the root, and write none.
        public_key (KEY.PEM): With --check: the key that must have signed it.
    """
    with report_root_errors():
        if check is None and public_key is not None:
            raise BadConfiguration("--public-key needs --check FILE; a statement is signed with --key")
        if check is not None and (replays or key is not None or output is not None):
            raise BadConfiguration("--check writes no statement; leave out --replay, --key and --output")
        root = _opened(place, changes, settings)
        holds = _proved(*root, replays or [], key, output) if check is None else _checked(check, public_key, *root)
    if not holds:
        raise typer.Exit(ExitCode.FAILURE)


def _proved(store: Store, run: TrainingRun | None, replays: list[Path], key: Path | None, output: Path | None) -> bool:
    """Write the statement about a root. False: the root does not hold, and nothing is written."""
    from halcyon.commands.attestation.deriving import image_of, misfit, read_root, statement
    from halcyon.commands.attestation.documents import MOST_BYTES, Claims, Unacceptable, encode, parse

    if output is not None:
        require_folder(output, "--output")
    private = None
    if key is not None:
        from halcyon.commands.attestation.signing import PASSPHRASE, load_private_key

        private = load_private_key(key, os.environ.get(PASSPHRASE))
    records = [_record(path) for path in replays]
    root = read_root(store, run)
    if root.damages:
        sys.stderr.write(f"{store.root} does not hold, so there is no statement:\n")
        sys.stderr.writelines(f"  {printable(str(damage))}\n" for damage in root.damages)
        return False
    for path, record in zip(replays, records, strict=True):
        if (problem := misfit(record, root.run, root.links)) is not None:
            raise BadConfiguration(f"--replay {path}: {problem}")
    image = None if run is None or run.spec.image is None else image_of(run.spec.image)
    data = encode(statement(root.run, root.links, Claims(image=image, replays=tuple(records))))
    try:
        parse(data)
    except Unacceptable as problem:
        raise TrainerExit(f"a check would not read the statement, because it {problem}") from None
    if private is not None:
        from halcyon.commands.attestation.signing import sign

        data = sign(data, private)
    if len(data) >= MOST_BYTES:
        raise TrainerExit(f"a check would not read the statement, because it has {len(data):,} bytes")
    if output is None:
        sys.stdout.buffer.write(data + b"\n")
        return True
    output.write_bytes(data + b"\n")
    links, signed = counted(len(root.links), "checkpoint"), "" if private is None else ", signed"
    _print(f"{output}: a statement about {links} up to step {root.links[0][1].step}{signed}")
    return True


def _checked(path: Path, public_key: Path | None, store: Store, run: TrainingRun | None) -> bool:
    """Check a statement, and print each fact. Returns whether all hold."""
    from halcyon.commands.attestation.checking import facts, open_statement
    from halcyon.commands.attestation.deriving import read_root
    from halcyon.commands.attestation.documents import MOST_BYTES, Unacceptable

    key = None
    if public_key is not None:
        from halcyon.commands.attestation.signing import load_public_key

        key = load_public_key(public_key)
    try:
        stated, signature = open_statement(text_of(path, MOST_BYTES), key)
    except Unacceptable as problem:
        _print(f"wrong: statement: {path} {problem}", "red")
        return False
    holds = True
    for fact in (signature, *facts(stated, read_root(store, run))):
        holds = holds and fact.holds is not False
        # What only the signer states needs a signature.
        signed = fact.holds is None and key is not None
        verdict, color = ("signed", "green") if signed else _VERDICTS[fact.holds]
        _print(f"{verdict}: {fact.name}: {fact.words}", color)
    _print("the statement holds" if holds else "the statement does not hold", "green" if holds else "red")
    return holds


def _record(path: Path) -> ReplayRecord:
    """The record of a replay.

    Raises:
        BadConfiguration: The file has none, or cannot be read.
    """
    from halcyon.commands.attestation.documents import MOST_BYTES, Unacceptable, parse, read_as
    from halcyon_api.replays import ReplayRecord

    try:
        return read_as(parse(text_of(path, MOST_BYTES)), ReplayRecord)
    except Unacceptable as problem:
        raise BadConfiguration(f"--replay {path} {problem}; give a record of `halcyon replay --record`") from None


def _opened(place: str, changes: Changes, settings: StoreSettings) -> tuple[Store, TrainingRun | None]:
    """The root that a command line names, and the document, if it names one.

    Raises:
        BadConfiguration: It is neither, or a root has options of a document.
        InvalidRun: The document is not valid.
    """
    if "://" in place or user_path(place).is_dir():
        if any(vars(changes).values()):
            raise BadConfiguration("--defaults and --set belong to a document; give run.yaml in place of the root")
        return root_store(place, settings), None
    root_spec(place, settings)  # says what is wrong with the path
    run = resolved(user_path(place), changes)
    from halcyon.host.storage.store import Store

    return Store(run.spec.checkpoint), run


def _print(line: str, color: str = "") -> None:
    console().print(Text(line, color), soft_wrap=True)
