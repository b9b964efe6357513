"""An alteration of a root is found by `halcyon checkpoints verify --all` and by `halcyon prove`, or changes nothing that a
command prints.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from typer.testing import CliRunner, Result

from halcyon.commands.main import app as trainer_app
from halcyon_api.checkpoint_documents import canonical_json, with_hash
from halcyon_api.ends import ExitCode
from halcyon_cli.main import app
from tests.trainer.support.process_groups import run_document, start_processes

pytestmark = pytest.mark.slow


def command(*words: object) -> Result:
    """Run a command in this process. None may show a traceback."""
    with_history = words[0] in ("report", "compare")
    ended = CliRunner().invoke(app if with_history else trainer_app, [*map(str, words)], env={"COLUMNS": "300"})
    assert ended.exception is None or isinstance(ended.exception, SystemExit), (words, ended.exc_info)
    return ended


def printed(root: Path) -> list[str]:
    """What the commands that read a root print, if they end well."""
    shown = [
        command("report", root, "--csv", "-"),
        command("report", root),
        command("report", root, "--json"),
        command("compare", root, root, "--json"),
        command("checkpoints", "list", root, "--json"),
        command("checkpoints", "show", root),
        command("data", "show", root.parent / "run.yaml", "--step", 3),
    ]
    return [one.stdout if one.exit_code == 0 else "" for one in shown]


def verdicts(root: Path) -> tuple[int, int]:
    """The exit codes of the commands that check a root."""
    return command("checkpoints", "verify", root, "--all").exit_code, command("prove", root).exit_code


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with evaluations that was interrupted once and is done, with checkpoints that were deleted."""
    folder = tmp_path_factory.mktemp("trained")
    document = run_document(folder / "root", slices=1, steps=60, evaluation={"everySteps": 10, "batches": 1})
    document["spec"]["checkpoint"]["keep"] = 3
    (folder / "run.yaml").write_text(yaml.safe_dump(document))
    for restart in (0, 1):
        group = start_processes(document, folder / "processes", restart=restart, share_programs=False)
        if restart == 0:
            group.leader.wait_for(lambda events: any(one.get("step", 0) >= 33 for one in events))
            group.signal(signal.SIGTERM, 0)
        assert group.wait() == [ExitCode.DONE if restart else ExitCode.PREEMPTED]
    assert verdicts(folder / "root") == (0, 0)
    return folder / "root"


def rows_of(path: Path) -> list[Any]:
    data = zstandard.ZstdDecompressor().decompress(path.read_bytes())
    return [json.loads(line) for line in data.splitlines()]


def write_rows(path: Path, rows: list[Any]) -> None:
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(text.encode()))


def other_value(value: Any, noise: random.Random) -> Any:
    match value:
        case bool() | None:
            return 7
        case int():
            return value + noise.choice((-1, 1, 10**6))
        case float():
            return noise.choice((value * 1.01 + 1e-3, 1e300, "NaN", -value - 1))
        case str() if value:
            return value[:-1] + ("0" if value[-1] != "0" else "1")
        case _:
            return [1.0]


def change_a_leaf(value: Any, noise: random.Random, left: frozenset[str] = frozenset()) -> None:
    """Change one value of a document in place, delete it, or repeat it."""
    holder = value
    while True:
        keys = [key for key in (holder if isinstance(holder, dict) else range(len(holder))) if key not in left]
        if not keys:
            return
        key = noise.choice(keys)
        inner = holder[key]
        if isinstance(inner, dict | list) and inner and noise.random() < 0.9:
            holder = inner
            continue
        if noise.random() < 0.15:
            del holder[key]
        else:
            holder[key] = other_value(inner, noise)
        return


def files(root: Path, pattern: str) -> list[Path]:
    return sorted(path for path in root.glob(pattern) if path.is_file() and path.stat().st_size)


PLACES = (
    "metrics/*", "evidence/*", "HEAD", "SEGMENTS.json", "steps/*/MANIFEST.json", "steps/*/COMMIT", "steps/*/data/*/c/**/*",
    "steps/*/data/*/zarr.json", "data/**/*", "tokenizers/*",
)  # fmt: skip
DOCUMENTS = ("evidence/*", "SEGMENTS.json", "data/*/LEDGER.json", "steps/*/MANIFEST.json", "steps/*/COMMIT")


def any_file(root: Path, noise: random.Random, places: tuple[str, ...] = PLACES) -> Path:
    return noise.choice(files(root, noise.choice([place for place in places if files(root, place)])))


def flip(root: Path, noise: random.Random) -> str:
    path = any_file(root, noise)
    data = bytearray(path.read_bytes())
    data[noise.randrange(len(data))] ^= 1 << noise.randrange(8)
    path.write_bytes(data)
    return str(path)


def cut(root: Path, noise: random.Random) -> str:
    path = any_file(root, noise)
    path.write_bytes(path.read_bytes()[: noise.randrange(path.stat().st_size)])
    return str(path)


def delete(root: Path, noise: random.Random) -> str:
    path = any_file(root, noise)
    path.unlink()
    return str(path)


def delete_a_folder(root: Path, noise: random.Random) -> str:
    path = noise.choice([root / "metrics", root / "evidence", *sorted((root / "steps").iterdir())])
    shutil.rmtree(path)
    return str(path)


def exchange(root: Path, noise: random.Random) -> str:
    path = any_file(root, noise)
    other = noise.choice([one for one in files(root, f"{path.parent.relative_to(root)}/*") if one != path] or [path])
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    if noise.random() < 0.5:
        other.write_bytes(mine)
    return f"{path} {other}"


def repeat(root: Path, noise: random.Random) -> str:
    """A file under the next name of its kind."""
    path = any_file(root, noise, ("metrics/*", "evidence/*"))
    new = path.with_name(
        path.name.replace("00", "01", 1) if noise.random() < 0.5 else f"000000099-000000099{path.name[19:]}"
    )
    new.write_bytes(path.read_bytes())
    return f"{path} {new}"


def change_rows(root: Path, noise: random.Random) -> str:
    """A row removed, repeated, exchanged, added or changed, with a valid checksum."""
    path = any_file(root, noise, ("metrics/*",))
    rows = rows_of(path)
    place = noise.randrange(1, len(rows))
    kind = noise.randrange(6)
    match kind:
        case 0:
            del rows[place]
        case 1:
            rows.append(rows[place])
        case 2:
            rows[place], rows[-1] = rows[-1], rows[place]
        case 3:
            rows.append({"event": "evaluation", "time": rows[-1].get("time", 1.0), "step": 60, "loss": 0.5})
        case 4:
            change_a_leaf(rows[noise.randrange(len(rows))], noise)
        case _:
            rows[place] = rows[place] | {"loss": 1.0, "learningRate": 0.5}
    write_rows(path, rows)
    return f"{path} {kind} {place}"


def change_a_document(root: Path, noise: random.Random) -> str:
    path = any_file(root, noise, DOCUMENTS)
    document = json.loads(path.read_bytes())
    change_a_leaf(document, noise)
    path.write_bytes(canonical_json(document))
    return str(path)


def write_head(root: Path, head: dict[str, Any]) -> None:
    (root / "HEAD").write_bytes(with_hash({name: value for name, value in head.items() if name != "sha256"}))


def change_head(root: Path, noise: random.Random) -> str:
    """A value of a checkpoint in HEAD, or the whole checkpoint, with the right hash of HEAD.

    Not what only HEAD knows, such as pins and starts: no other file shows it.
    """
    head = json.loads((root / "HEAD").read_bytes())
    place = noise.randrange(len(head["committed"]))
    if noise.random() < 0.3:
        del head["committed"][place]
    else:
        change_a_leaf(head["committed"][place], noise, frozenset({"verification"}))
    write_head(root, head)
    return f"HEAD {place}"


def change_a_ledger(root: Path, noise: random.Random) -> str:
    """A value of the ledger of a token cache, with the right hash.

    Not what only the ledger knows: how many files of the folders are hidden, excluded, or of another kind.
    """
    path = noise.choice(files(root, "data/*/LEDGER.json"))
    content = {name: value for name, value in json.loads(path.read_bytes()).items() if name != "sha256"}
    change_a_leaf(content, noise, frozenset({"hidden", "excluded", "others"}))
    path.write_bytes(with_hash(content))
    return str(path)


def change_the_chain(root: Path, noise: random.Random) -> str:
    """A link is changed, and all hashes that name it, up to HEAD."""
    links = files(root, "evidence/*.json")
    place = noise.randrange(len(links))
    document = json.loads(links[place].read_bytes())
    change_a_leaf(document, noise)
    head, digest = json.loads((root / "HEAD").read_bytes()), ""
    for path in links[place:]:
        if path != links[place]:
            document = json.loads(path.read_bytes()) | {"previous": digest}
        path.write_bytes(canonical_json(document))
        digest = hashlib.sha256(canonical_json(document)).hexdigest()
        for entry in head["committed"]:
            if entry["path"].rstrip("/").endswith(path.stem):
                entry["link"] = digest
    write_head(root, head)
    return str(links[place])


ALTERATIONS: tuple[Callable[[Path, random.Random], str], ...] = (
    flip, cut, delete, delete_a_folder, exchange, repeat, change_rows, change_rows, change_rows, change_a_document,
    change_head, change_the_chain, change_a_ledger,
)  # fmt: skip


def test_what_is_not_read_of_token_caches_is_said(trained: Path, tmp_path: Path) -> None:
    root = shutil.copytree(trained, tmp_path / "root")
    (ledger,) = files(root, "data/*/LEDGER.json")
    name = ledger.parent.name
    assert "token caches: 1 ledger as the newest checkpoint says" in command("checkpoints", "verify", root).stdout
    written = ledger.read_bytes()
    ledger.write_bytes(written[:-20])
    for words in (("checkpoints", "verify", root), ("prove", root)):
        ended = command(*words)
        assert (ended.exit_code, f"{name}: LEDGER.json is not a JSON document" in ended.output) == (1, True)
        assert "not compared" not in ended.output
    ledger.unlink()
    ended = command("checkpoints", "verify", root)
    assert (ended.exit_code, f"because no finished cache is below this root: {name}" in ended.stdout) == (0, True)


@pytest.mark.parametrize("turns", [13, pytest.param(200, marks=pytest.mark.variant)])
def test_an_alteration_is_found_or_changes_nothing_that_is_printed(turns: int, trained: Path, tmp_path: Path) -> None:
    root, noise = tmp_path / "root", random.Random(turns)
    shutil.copytree(trained, root)
    document = yaml.safe_load((trained.parent / "run.yaml").read_text())
    document["spec"]["checkpoint"]["root"] = f"file://{root}"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    before = printed(root)
    assert all(before)
    found = 0
    for turn in range(turns):
        where = ALTERATIONS[turn % len(ALTERATIONS)](root, noise)
        codes, after = verdicts(root), printed(root)
        silent = [one for one, old in zip(after, before, strict=True) if one not in (old, "")]
        assert codes == (1, 1) or (codes[0] == codes[1] == 0 and not silent), f"turn {turn}: {codes} {where} {silent}"
        found += codes[0]
        shutil.rmtree(root)
        shutil.copytree(trained, root)
    print(f"{found} of {turns} alterations are found, and the others change nothing that is printed")
