"""A build that continues opens no file before the one in which it stopped, and writes the same bytes as an undisturbed
build.
"""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

import pytest

from halcyon.data.cache import build, ensure
from halcyon.data.sources import cutting, pieces
from halcyon_api.status.sources import Built
from halcyon_api.training_run import TrainingRunSpec
from tests.trainer.data.cache.runs import files_below, ledger_of, spec_of, write_jsonl
from tests.trainer.support.datasets import ensure_caches
from tests.variants import few_of

FILES, ROWS = 8, 60


class Stopped(Exception):
    pass


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Compressed files, one of them empty, read in pieces of a few rows."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(FILES):
        plain = write_jsonl(tmp_path / "plain.jsonl", 0 if number == 3 else ROWS, seed=number)
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    monkeypatch.setattr(ensure, "pieces", functools.partial(pieces, target_bytes=1000))
    return folder


def spec_at(root: Path, corpus: Path, **rows: int) -> TrainingRunSpec:
    source = {"name": "web", "jsonl": {"paths": [f"{corpus}/*.gz"]}, "rows": rows}
    return spec_of(f"file://{root}", [source], data__cache={"workers": 1, "shardTokens": 3000})


@pytest.mark.parametrize("rows", few_of([{}, {"start": 75}, {"start": 10, "end": 400}], [{"start": 10, "end": 400}]))
def test_files_before_the_place_are_not_opened(
    tmp_path: Path, corpus: Path, rows: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_caches(spec_at(tmp_path / "whole", corpus, **rows), process="p")
    whole = files_below(tmp_path / "whole" / "data")
    shards = len(ledger_of(f"file://{tmp_path}/whole").shards)
    assert shards > FILES
    opened: list[str] = []
    read_chunks = cutting.read_chunks
    monkeypatch.setattr(
        cutting, "read_chunks", lambda file, access: opened.append(Path(file.uri).name[0]) or read_chunks(file, access)
    )
    first_opened: list[int] = []
    for stopped in (1, shards // 2, shards - 3):
        root = tmp_path / f"stopped-{stopped}"

        def stop(built: Built, stopped: int = stopped) -> None:
            if built.shards >= stopped:
                raise Stopped

        with pytest.raises(Stopped):
            ensure_caches(spec_at(root, corpus, **rows), process="p", report=stop)
        ledger = ledger_of(f"file://{root}")
        assert 0 < len(ledger.shards) < shards
        done = ledger.counts.rows + rows.get("start", 0)
        opened.clear()
        ensure_caches(spec_at(root, corpus, **rows), process="p")
        numbers = [number for number in range(FILES) if number != 3]
        assert opened[0] == str(numbers[(done - 1) // ROWS]), "the first opened file must hold the last committed row"
        assert files_below(root / "data") == whole
        first_opened.append(int(opened[0]))
    assert len(set(first_opened)) == 3


def test_a_build_whose_ledger_has_no_last_file_continues_from_the_first_file(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_caches(spec_at(tmp_path / "whole", corpus), process="p")
    with monkeypatch.context() as patch:
        patch.setattr(build.LastFile, "of_row_before", lambda self, row: (None, None))

        def stop(built: Built) -> None:
            if built.shards >= 5:
                raise Stopped

        with pytest.raises(Stopped):
            ensure_caches(spec_at(tmp_path / "old", corpus), process="p", report=stop)
    assert ledger_of(f"file://{tmp_path}/old").last_file is None
    ensure_caches(spec_at(tmp_path / "old", corpus), process="p")
    old, whole = (ledger_of(f"file://{tmp_path}/{name}") for name in ("old", "whole"))
    assert [shard.sha256 for shard in old.shards] == [shard.sha256 for shard in whole.shards]
