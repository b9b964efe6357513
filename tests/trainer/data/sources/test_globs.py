"""Globs over listed names match like globs of the shell."""

from __future__ import annotations

import glob
from pathlib import Path

import pytest

from halcyon.data.sources.listing import glob_to_regex, literal_prefix

NAMES = (
    "a.txt",
    "b.txt",
    "b1.txt",
    "c.md",
    ".hidden.txt",
    "x/a.txt",
    "x/y/a.txt",
    "x/y/.b.txt",
    "x/.h/a.txt",
    "x/y/z/c^.md",
    "x/[1].txt",
)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "*",
            "*.txt",
            "?.txt",
            "[ab].txt",
            "[!a].txt",
            "b[0-9].txt",
            "**",
            "**/*.txt",
            "x/**/*.txt",
            "x/**",
            "x/*/*.md",
            "x/y/z/c[^].md",
        ),
        *("x/[[]1].txt", ".*", "x/y", "**/a.txt", "**/y/*", "x[", "x/[!.]/a.txt", "nothing/*"),
    ],
)
def test_the_same_names_as_on_a_disk(tmp_path: Path, pattern: str) -> None:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    on_disk = {name for name in glob.glob(pattern, root_dir=tmp_path, recursive=True) if (tmp_path / name).is_file()}  # noqa: PTH207
    assert {name for name in NAMES if glob_to_regex(pattern).fullmatch(name)} == on_disk
    prefix = literal_prefix(pattern)
    assert all(name == prefix or name.startswith(prefix and f"{prefix}/") for name in on_disk)
