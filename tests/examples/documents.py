"""Every YAML document that a reader of this repository may copy: the files of examples/, and the YAML blocks of the
documentation.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from halcyon_api.defaults.units import Values, values_of_defaults
from halcyon_api.local_roots import with_root_addresses
from halcyon_api.model_file import with_model
from tests import quick_yaml

REPOSITORY = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```ya?ml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shown_documents() -> Iterator[tuple[str, Any]]:
    """The place of each document, and the document."""
    for path in sorted(REPOSITORY.glob("examples/**/*.yaml")):
        for number, document in enumerate(quick_yaml.load_all(path.read_text(encoding="utf-8"))):
            yield f"{path.relative_to(REPOSITORY)}#{number}", document
    for path in sorted(
        [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("charts/**/*.md")]
    ):
        for number, block in enumerate(_BLOCK.findall(path.read_text(encoding="utf-8"))):
            for document in quick_yaml.load_all(block):
                yield f"{path.relative_to(REPOSITORY)}#{number}", document


def objects_of(page: str) -> dict[str, dict[str, Any]]:
    """The objects that a page shows, by kind."""
    return {
        document["kind"]: document
        for where, document in shown_documents()
        if where.startswith(f"{page}#") and "kind" in document
    }


def patches() -> dict[str, dict[str, Any]]:
    """Files that Kustomize merges into a TrainingRun: those that name the patch schema for editors."""
    paths = [
        path
        for path in sorted(REPOSITORY.glob("examples/**/*.yaml"))
        if ".patch.json" in path.read_text(encoding="utf-8")
    ]
    return {f"{path.relative_to(REPOSITORY)}#0": quick_yaml.load(path.read_text(encoding="utf-8")) for path in paths}


def taken(where: str) -> Values:
    """The defaults of a run at this place: the TrainingRunDefaults of the same block or file, or of the same folder of
    examples.
    """
    file = where.split("#")[0]
    folder = file.rpartition("/")[0]
    beside = [
        document["spec"]
        for place, document in shown_documents()
        if isinstance(document, dict) and document.get("kind") == "TrainingRunDefaults"
        if place == where or (folder.startswith("examples/") and place.startswith(f"{folder}/"))
    ]
    return values_of_defaults(beside[0]) if beside else {}


def training_runs() -> dict[str, dict[str, Any]]:
    """The complete TrainingRuns among them, as a command reads them: with a model in place of the config.json that a
    document names.

    A fragment of one section has no kind, and a patch is not a run.
    """
    parts = patches()
    return {
        where: with_root_addresses(with_model(document, REPOSITORY, lambda config, folder: {"family": "llama"}))
        for where, document in shown_documents()
        if isinstance(document, dict) and document.get("kind") == "TrainingRun" and where not in parts
    }
