"""Pieces that are too large in memory are tokenized in parts, in this process and in others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from halcyon.data.cache.pool import TokenizerPool
from halcyon.data.cache.work import Job
from halcyon.data.sources import list_files
from halcyon.tokenizer.definition import BYTE
from tests.trainer.data.sources.cases import NOW, all_pieces, parquet_source


@pytest.mark.parametrize("in_processes", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.variant])])
def test_a_piece_that_is_too_large_has_the_rows_of_its_parts(tmp_path: Path, in_processes: bool) -> None:
    texts = pa.DictionaryArray.from_arrays(
        pa.array(np.arange(2400, dtype=np.int32) % 3), pa.array(["a" * 100_000, "b", "c"])
    )
    parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    source = parquet_source(tmp_path)
    files = tuple(file.uri for file in list_files(source, NOW))
    job = Job(BYTE, source.format, "spec.data.sources[web].parquet", NOW, files, "uint16", None)
    with TokenizerPool([job], 2) as pool:
        parts = list(pool.tokenized(job, iter(all_pieces(source)), in_processes=in_processes))
    assert len(parts) > 1
    assert sum(part.documents.counts.rows for part in parts) == 2400
    assert np.concatenate([part.documents.origins[:, 1] for part in parts]).tolist() == list(range(2400))
