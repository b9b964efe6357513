"""`halcyon prove`: a statement about a root checks there, and no change of the statement or the root passes."""

from __future__ import annotations

import base64
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ed25519
from typer.testing import CliRunner, Result

from halcyon.checkpoint import verify
from halcyon.checkpoint.evidence import StepNumbers
from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.commands.attestation.checking import facts, open_statement
from halcyon.commands.attestation.deriving import Shown, read_root
from halcyon.commands.attestation.documents import Unacceptable, parse
from halcyon.commands.main import app
from halcyon.host.storage.store import Store
from halcyon.weights.model_file import read_model
from halcyon_api.checkpoint_documents import Owner
from halcyon_api.ends import ExitCode
from halcyon_api.reading import load_run
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.mistakes.row import document
from tests.trainer.checkpoint.helpers import Root, fill, open_root, restore_newest, save_step
from tests.trainer.commands.attestation.test_documents import record
from tests.trainer.commands.attestation.test_signing import private, public
from tests.trainer.telemetry.history.rows import Recorder, group, row

pytestmark = pytest.mark.slow

STEPS = (3, 6, 9, 12)
KEY, OTHER_KEY = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
DIGEST = "1" * 64


def loss(step: int) -> float:
    return 1.0 / step


def run_document(folder: Path, **changes: Any) -> Path:
    """A document of the run whose root is in a folder."""
    path = folder / "run.yaml"
    own = {"spec.image": f"ghcr.io/o/trainer@sha256:{DIGEST}", "spec.checkpoint.root": f"file://{folder}/root"}
    path.write_text(yaml.safe_dump(document(own | changes)))
    return path


def train(folder: Path, *saves: int) -> None:
    """Steps from the newest checkpoint to the last save, with two checkpoints kept, and their history."""
    spec = load_run(run_document(folder), read_model).spec
    root = Root(CheckpointSpec(root=f"file://{folder}/root", keep=2), folder / "root", {})
    known, owner = StepNumbers(), Owner(namespace="default", name="notes", uid="one")
    prints = fingerprints(spec, data={"notes": "hash"})
    with open_root(root, hardware="4 x test", fingerprints=prints, owner=owner) as checkpointer:
        restored = restore_newest(checkpointer)
        first = 0 if restored is None else restored.step
        for step in range(first + 1, max(saves) + 1):
            known.add(step, loss(step), 0.5)
            if step in saves:
                save_step(checkpointer, step, None, known)
                checkpointer.finish()
    record_history(folder, first, max(saves))


def record_history(folder: Path, first: int, last: int, wrong: int | None = None) -> None:
    """The history of the steps after one, up to another. Of the wrong step it has another loss."""
    Recorder(CheckpointSpec(root=f"file://{folder}/root"), group(first + 1, resumed=first)).flush(
        [
            row(step, loss(step) + (1e-6 if step == wrong else 0), gradientNorm=0.5)
            for step in range(first + 1, last + 1)
        ]
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder, *STEPS)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A folder with a root, its document and two keys, which a test may change."""
    shutil.copytree(trained / "root", tmp_path / "root")
    run_document(tmp_path)
    private(tmp_path, KEY)
    public(tmp_path, KEY)
    return tmp_path


def prove(*words: object, **variables: str) -> Result:
    return CliRunner().invoke(app, ["prove", *map(str, words)], env={"COLUMNS": "300", **variables})


def proved(folder: Path, *words: object, place: str = "run.yaml") -> Path:
    made = prove(folder / place, "--output", folder / "statement.json", *words)
    assert made.exit_code == 0, made.output
    return folder / "statement.json"


def shown(folder: Path) -> Shown:
    return read_root(Store(CheckpointSpec(root=f"file://{folder}/root")), None)


def holds(text: str, root: Shown, key: Any = None) -> bool:
    """Whether a statement is accepted, and nothing in it is wrong."""
    try:
        stated, _ = open_statement(text, key)
    except Unacceptable:
        return False
    return all(fact.holds is not False for fact in facts(stated, root))


@pytest.mark.parametrize("place", ["run.yaml", "root"])
def test_a_proved_root_checks(place: str, folder: Path) -> None:
    stated = json.loads(proved(folder, place=place).read_text())
    assert [subject["name"].split(".")[0] for subject in stated["subject"]] == [
        f"steps/{step:012d}" for step in reversed(STEPS)
    ]
    assert stated["predicate"]["run"] == "default/notes"
    assert stated["predicate"]["computed"][0]["hardware"] == "4 x test"
    checked = prove(folder / place, "--check", folder / "statement.json")
    assert checked.exit_code == 0, checked.output
    lines = checked.stdout.splitlines()
    assert lines[0] == "only stated: signature: there is none, so nothing shows who states this"
    assert lines[1] == (
        "holds: root: every byte of 2 checkpoints and of 4 links is what was written; token caches: not read, because "
        "the newest checkpoint names no source"
    )
    assert lines[2] == "holds: history: 1 file with 12 steps; no link covers 1 file (steps 1 to 12) yet"
    assert lines[4] == "holds: subjects: the chain has the digest of 4 checkpoints, and the root still has 2 of them"
    assert lines[-1] == "the statement holds"
    image = f"only stated: image: the document named ghcr.io/o/trainer@sha256:{DIGEST}"
    assert (image in lines) == (place == "run.yaml")


def test_a_statement_is_the_same_each_time_and_goes_to_standard_output(folder: Path) -> None:
    made = prove(folder / "run.yaml")
    assert made.stdout == proved(folder).read_text()
    assert made.stdout == json.dumps(
        json.loads(made.stdout), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ) + "\n"  # fmt: skip


def test_a_statement_of_a_root_that_trained_on_still_checks(folder: Path) -> None:
    statement = proved(folder)
    train(folder, 15, 18)
    checked = prove(folder / "run.yaml", "--check", statement)
    assert checked.exit_code == 0, checked.output
    assert "the link of step 12 that the statement ends with; 2 links followed" in checked.stdout
    assert "the digest of 4 checkpoints, and the root still has 0 of them" in checked.stdout


def test_a_root_is_read_while_its_run_deletes_checkpoints(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter((15, 18))

    statement, find = proved(folder), verify.find_damage
    monkeypatch.setattr(verify, "find_damage", lambda store, entry: (train(folder, next(turns)), find(store, entry))[1])
    found = read_root(Store(CheckpointSpec(root=f"file://{folder}/root")), None)
    assert (found.damages, found.present, found.links[0][1].step) == ((), frozenset(), 12)
    assert holds(statement.read_text(), found)


def test_a_signed_statement_checks_with_its_key_alone(folder: Path) -> None:
    head = json.loads(proved(folder).read_text())["predicate"]["chain"]["head"]
    replay = folder / "replay.json"
    replay.write_text(json.dumps({**record(run="default/notes", chain=head).document(), "firstDifferentStep": None}))
    statement = proved(folder, "--key", folder / "key.pem", "--replay", replay, "--replay", replay)
    assert json.loads(statement.read_text())["payloadType"] == "application/vnd.in-toto+json"
    checked = prove(folder / "run.yaml", "--check", statement, "--public-key", folder / "key.pub")
    assert checked.exit_code == 0, checked.output
    lines = checked.stdout.splitlines()
    assert lines[0] == "holds: signature: it is by this key"
    verdict = "steps 4 to 6 were replayed on 1 x other at 2026-03-01T12:00:00Z: identical; "
    verdict += "3 of 3 steps compared with the history, and the last state"
    assert lines.count(f"signed: replay: {verdict}") == 2
    refused = prove(folder / "run.yaml", "--check", statement, "--public-key", public(folder, OTHER_KEY, "other.pub"))
    assert (refused.exit_code, refused.stdout) == (
        1,
        f"wrong: statement: {statement} is not signed by this key (1 signature tried)\n",
    )


def test_a_statement_without_its_signature_is_refused_where_there_is_a_key(folder: Path) -> None:
    refused = prove(folder / "run.yaml", "--check", proved(folder), "--public-key", folder / "key.pub")
    assert refused.exit_code == 1
    assert "is not signed: it is no DSSE envelope" in refused.stdout


def another(value: Any, noise: random.Random) -> Any:
    """A value of JSON with one change somewhere."""
    match value:
        case dict() | list() if value and noise.random() < 0.8:
            copy: Any = value.copy()
            keys = sorted(copy) if isinstance(copy, dict) else range(len(copy))
            key = noise.choice(keys)
            match noise.randrange(6):
                case 0:
                    del copy[key]
                case 1 if isinstance(copy, list):
                    copy.append(copy[key])
                case 1:
                    copy["more"] = copy[key]
                case 2 if isinstance(copy, list):
                    copy.reverse()
                case _:
                    copy[key] = another(copy[key], noise)
            return copy
        case str() if value:
            place = noise.randrange(len(value))
            return value[:place] + noise.choice("0123456789abcdef".replace(value[place], "")) + value[place + 1 :]
        case int():
            return value + noise.choice((-1, 1))
        case _:
            return noise.choice((None, 0, "", True, [], {}))


def changed(document: Any, noise: random.Random) -> str:
    """The text of a document with one change, which is not the same document."""
    while (found := another(document, noise)) == document:
        pass
    return json.dumps(found)


def test_a_hundred_changes_of_a_statement_are_found(folder: Path) -> None:
    """Without a signature: of all that the root shows, so of all but the claims."""
    document = json.loads(proved(folder, place="root").read_text())
    root, noise = shown(folder), random.Random(3)
    assert holds(json.dumps(document), root)
    for turn in range(300):
        tampered = json.loads(changed(document, noise))
        if without_claims(tampered) != without_claims(document):
            assert not holds(json.dumps(tampered), root), f"turn {turn}: {tampered}"


def without_claims(statement: Any) -> str:
    """The text of a statement without its claims."""
    copy = json.loads(json.dumps(statement))
    if isinstance(copy, dict) and isinstance(copy.get("predicate"), dict):
        copy["predicate"].pop("claims", None)
    return json.dumps(copy, sort_keys=True)


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each text and number of a document, as the object that holds it and its key there."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        if isinstance(inner, dict | list):
            yield from leaves(inner)
        else:
            yield value, key


def test_a_change_of_any_value_of_a_statement_is_found(folder: Path) -> None:
    statement = json.loads(proved(folder, place="root").read_text())
    root = shown(folder)
    assert statement["predicate"]["claims"] == {"replays": []}
    places = list(leaves(statement))
    assert len(places) > 30
    for holder, key in places:
        value = holder[key]
        holder[key] = value + 1 if isinstance(value, int) else ("1" if value[0] == "0" else "0") + value[1:]
        assert not holds(json.dumps(statement), root), f"{key}: {value} {holder[key]}"
        holder[key] = value
    assert holds(json.dumps(statement), root)


def test_a_hundred_changes_below_a_signature_are_found(folder: Path) -> None:
    text = proved(folder, "--key", folder / "key.pem").read_text()
    root, noise = shown(folder), random.Random(4)
    assert holds(text, root, KEY.public_key())
    envelope = json.loads(text)
    statement = parse(base64.b64decode(envelope["payload"]))
    for turn in range(100):
        payload = base64.b64encode(changed(statement, noise).encode()).decode()
        assert not holds(json.dumps(envelope | {"payload": payload}), root, KEY.public_key()), f"turn {turn}"


def other_loss(folder: Path, noise: random.Random) -> None:
    shutil.rmtree(folder / "root" / "metrics")
    record_history(folder, 0, max(STEPS), wrong=noise.randint(1, max(STEPS)))


def without_a_link(folder: Path, noise: random.Random) -> None:
    noise.choice(sorted((folder / "root" / "evidence").iterdir())).unlink()


def swapped_checkpoints(folder: Path, noise: random.Random) -> None:
    """All of one checkpoint, its data, or one of its files, in the place of another's."""
    one, two = sorted((folder / "root" / "steps").iterdir())
    inside = noise.choice(("", "data", "MANIFEST.json", "data/weight", "data/bias/c/0"))
    (one / inside).rename(folder / "kept")
    (two / inside).rename(one / inside)
    (folder / "kept").rename(two / inside)


def other_byte(folder: Path, noise: random.Random) -> None:
    """One bit of a checkpoint, of the chain, of the history or of HEAD."""
    names = ("steps", "evidence", "metrics", "HEAD")
    files = [
        path
        for name in names
        for path in sorted([folder / "root" / name, *(folder / "root" / name).rglob("*")])
        if path.is_file() and path.stat().st_size
    ]
    path = noise.choice(files)
    data = bytearray(path.read_bytes())
    data[noise.randrange(len(data))] ^= 1 << noise.randrange(8)
    path.write_bytes(data)


@pytest.mark.parametrize("change", [other_loss, without_a_link, swapped_checkpoints, other_byte])
def test_a_hundred_changes_of_the_root_are_found(
    change: Callable[[Path, random.Random], None], folder: Path, trained: Path
) -> None:
    text, noise = proved(folder, place="root").read_text(), random.Random(5)
    for turn in range(25):
        shutil.rmtree(folder / "root")
        shutil.copytree(trained / "root", folder / "root")
        assert holds(text, shown(folder)), turn
        change(folder, noise)
        assert not holds(text, shown(folder)), f"turn {turn}"
        assert prove(folder / "root").exit_code == 1, f"turn {turn}"
    refused = prove(folder / "root", "--output", folder / "none.json")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"file://{folder}/root does not hold, so there is no statement:\n  ")
    assert not (folder / "none.json").exists()
    assert prove(folder / "root", "--check", folder / "statement.json").exit_code == 1


def test_the_root_of_another_run_is_another_one(folder: Path) -> None:
    statement = proved(folder)
    shutil.rmtree(folder / "root")
    train(folder, 2, 12)
    checked = prove(folder / "root", "--check", statement)
    assert checked.exit_code == 1
    assert "wrong: chain: the chain of the root does not have the link" in checked.stdout


def test_another_document_is_not_that_of_the_run(folder: Path) -> None:
    statement = proved(folder)
    run_document(folder, **{"spec.trainer.steps": 20})  # a run may get more steps
    assert prove(folder / "run.yaml", "--check", statement).exit_code == 0
    run_document(folder, **{"spec.trainer.seed": 7})
    sentence = "the document is not that of the run: spec.trainer.seed is 7 but was 0; give --defaults and --set as for"
    checked = prove(folder / "run.yaml", "--check", statement)
    assert (checked.exit_code, sentence in checked.stdout) == (1, True)
    refused = prove(folder / "run.yaml")
    assert (refused.exit_code, sentence in refused.stderr, refused.stdout) == (1, True, "")
    assert prove(folder / "run.yaml", "--check", statement, "--set", "spec.trainer.seed=0").exit_code == 0


@dataclass(frozen=True)
class Wrong:
    words: tuple[str, ...]
    sentence: str


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong(("run.yaml", "--check", "signed.json"), "the statement is signed; give the key that must have signed it"),
        Wrong(("run.yaml", "--check", "none.json"), "none.json: No such file or directory"),
        Wrong(("run.yaml", "--check", "binary"), "binary: it is no text in UTF-8; give another path"),
        Wrong(("run.yaml", "--check", "sparse"), "sparse: it is larger than 8 MiB"),
        Wrong(("run.yaml", "--check", "signed.json", "--key", "key.pem"), "--check writes no statement; leave out"),
        Wrong(("run.yaml", "--public-key", "key.pub"), "--public-key needs --check FILE"),
        Wrong(("run.yaml", "--key", "none.pem"), "none.pem: No such file or directory"),
        Wrong(("run.yaml", "--key", "key.pub"), "key.pub: this is not a private key in PEM"),
        Wrong(("run.yaml", "--output", "none/statement.json"), "--output none/statement.json: give a file in a folder"),
        Wrong(("run.yaml", "--replay", "signed.json"), "--replay signed.json is not of the expected form (run: Field"),
        Wrong(
            ("run.yaml", "--replay", "other.json"), "--replay other.json: it is of the run tests/run, not of default"
        ),
        Wrong(("root", "--set", "spec.trainer.steps=1"), "--defaults and --set belong to a document"),
        Wrong(("nothing",), "there is no folder nothing; give a checkpoint root"),
        Wrong(("~nosuchuser/root",), "there is no folder ~nosuchuser/root; give a checkpoint root"),
    ],
    ids=lambda wrong: " ".join(wrong.words),
)
def test_a_wrong_command_is_one_sentence(wrong: Wrong, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    proved(folder, "--key", "key.pem").rename("signed.json")
    Path("other.json").write_text(json.dumps(record().document()))
    Path("binary").write_bytes(b"\xff\xfe\x00")
    with Path("sparse").open("wb") as file:
        file.truncate(9 * 2**20)
    ended = prove(*wrong.words)
    assert (ended.exit_code, ended.stdout) == (ExitCode.BAD_CONFIGURATION, "")
    assert ended.stderr.startswith(wrong.sentence)
    assert ended.stderr.count("\n") == 1


def test_without_its_package_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    monkeypatch.delitem(sys.modules, "halcyon.commands.attestation.signing")
    refused = prove(folder / "run.yaml", "--key", folder / "key.pem")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith(
        "the package cryptography is not installed; this needs pip install '.[prove]' in a checkout"
    )


def test_a_root_that_no_training_made_has_no_chain(tmp_path: Path) -> None:
    fill(Root(CheckpointSpec(root=f"file://{tmp_path}/root"), tmp_path / "root", {}), 1)
    refused = prove(tmp_path / "root")
    assert refused.exit_code == 1
    assert "the newest checkpoint has no link in a chain of evidence" in refused.stderr
