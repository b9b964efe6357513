"""Compiled programs travel through the root, and a damaged one is not used."""

from __future__ import annotations

from pathlib import Path

import pytest

from halcyon.checkpoint.store import Store
from halcyon.compilation import CompilationCache, program_key
from halcyon_api.spec.checkpoint import CheckpointSpec


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(CheckpointSpec(root=f"file://{tmp_path}/root"))


def test_what_one_process_compiled_another_finds(tmp_path: Path, store: Store) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "jit_step-1234-cache").write_bytes(b"program")
    (first / "jit_step-1234-atime").write_bytes(b"12")
    assert CompilationCache(first, store, "p").publish() == 1
    assert CompilationCache(first, store, "p").publish() == 0
    assert CompilationCache(second, store, "p").fetch() == 1
    assert (second / "jit_step-1234-cache").read_bytes() == b"program"
    assert CompilationCache(second, store, "p").fetch() == 0


def test_another_program_fetches_nothing(tmp_path: Path, store: Store) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (first / "a-cache").write_bytes(b"program")
    CompilationCache(first, store, "p").publish()
    assert CompilationCache(tmp_path / "second", store, "q").fetch() == 0


def test_a_damaged_entry_is_passed_over(tmp_path: Path, store: Store) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (first / "a-cache").write_bytes(b"program")
    CompilationCache(first, store, "p").publish()
    stored = next((tmp_path / "root/compilation/p").glob("a-cache.*"))
    stored.write_bytes(b"progrbm")
    assert CompilationCache(tmp_path / "second", store, "p").fetch() == 0
    assert not list((tmp_path / "second").glob("*-cache"))


def test_a_program_is_named_by_all_it_depends_on() -> None:
    assert program_key({"mesh": 1}) == program_key({"mesh": 1})
    assert program_key({"mesh": 1}) != program_key({"mesh": 2})
