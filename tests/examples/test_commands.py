"""Commands and packages in the documentation exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from halcyon_api.package import DISTRIBUTION, install
from tests.examples.documents import REPOSITORY, training_runs

TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "examples/**/*.md",
        "examples/**/*.yaml",
        "charts/**/*.md",
        "charts/**/*.txt",
    )
    for path in REPOSITORY.glob(pattern)
)
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
OWNER = re.compile(r"(ghcr\.io|github\.com|--repo )/?OWNER/")
INSTALLED = re.compile(r"pip install '([a-z.-]+)\[([a-z,]+)\]'")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_owner_placeholder_is_explained_in_its_file(path: Path) -> None:
    text = path.read_text()
    assert not OWNER.search(text) or "OWNER is who publishes" in " ".join(text.split())


def test_documented_packages_are_this_distribution_with_existing_extras() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    shown = [found for path in TEXTS for found in INSTALLED.findall(path.read_text())]
    shown += [found for extra in ("cli", "cuda", "tpu") for found in INSTALLED.findall(install(extra))]
    assert len(shown) > 6
    for name, extra in shown:
        assert name in (DISTRIBUTION, ".")
        assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"])


def test_no_example_keeps_its_checkpoints_where_a_restart_deletes_them() -> None:
    roots = [document["spec"].get("checkpoint", {}).get("root", "") for document in training_runs().values()]
    assert not [root for root in roots if root.startswith("file:///tmp/")]
