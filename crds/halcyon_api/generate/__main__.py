"""``make generate``: writes all files that are generated from the types; with ``--check`` it reports the stale ones.

``make schemas``: ``--schemas FOLDER`` writes the JSON schemas of a release.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from halcyon_api import training_run
from halcyon_api.families_reference import COMMON, OTHERS, rows
from halcyon_api.generate import argocd, crd, hardware_reference, json_schema, limits, reference
from halcyon_api.generate.pages import page

REPOSITORY = Path(__file__).resolve().parents[3]


def generated_files() -> dict[Path, str]:
    """Every generated file of the repository with the text it must have."""
    return {
        crd.CRD_FILE: crd.render(),
        crd.DEFAULTS_CRD_FILE: crd.render(crd.defaults_definition()),
        REPOSITORY / "charts" / "halcyon" / "files" / "limits.yaml": limits.render(),
        argocd.CONFIG_MAP: argocd.render(),
        REPOSITORY / "docs" / "reference" / "trainingrun.md": reference.render(),
        REPOSITORY / "docs" / "reference" / "models.md": page(
            "models.md.jinja", rows=rows(), common=COMMON, others=OTHERS
        ),
        REPOSITORY / "docs" / "hardware.md": hardware_reference.render(),
    }


def schema_files(folder: Path) -> dict[Path, str]:
    """The JSON schemas, which are files of a release and not of the repository, by their paths below a folder."""
    schemas = {
        json_schema.NAME: json_schema.document_schema(),
        f"{json_schema.NAME}.patch": json_schema.patch_schema(),
        json_schema.DEFAULTS_NAME: json_schema.defaults_schema(),
    }
    return {folder / training_run.GROUP / f"{name}.json": json_schema.render(schemas[name]) for name in schemas}


def stale_files() -> list[Path]:
    """The generated files whose text on disk differs from the generated text."""
    return [
        path
        for path, text in generated_files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> int:
    """Write the files; with ``--check`` fail if one is stale; with ``--schemas FOLDER`` write the JSON schemas there."""
    if arguments and arguments[0] == "--schemas":
        _write(schema_files(Path(arguments[1])))
        return 0
    stale = stale_files()
    if list(arguments) == ["--check"]:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(REPOSITORY)} is stale; run 'make generate'\n")
        return 1 if stale else 0
    files = generated_files()
    _write({path: files[path] for path in stale})
    return 0


def _write(files: dict[Path, str]) -> None:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path}\n")


if __name__ == "__main__":
    sys.exit(main())
