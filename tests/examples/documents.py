"""Every YAML document that a reader of this repository may copy: the files of examples/, and the YAML blocks of the documentation."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```ya?ml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shown_documents() -> Iterator[tuple[str, Any]]:
    """Where each document stands, and the document."""
    for path in sorted(REPOSITORY.glob("examples/**/*.yaml")):
        for number, document in enumerate(yaml.safe_load_all(path.read_text(encoding="utf-8"))):
            yield f"{path.relative_to(REPOSITORY)}#{number}", document
    for path in sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("charts/**/*.md")]):
        for number, block in enumerate(_BLOCK.findall(path.read_text(encoding="utf-8"))):
            for document in yaml.safe_load_all(block):
                yield f"{path.relative_to(REPOSITORY)}#{number}", document


def training_runs() -> dict[str, dict[str, Any]]:
    """The complete TrainingRuns among them; a fragment that shows one section has no kind."""
    return {
        where: document for where, document in shown_documents() if isinstance(document, dict) and document.get("kind") == "TrainingRun"
    }
