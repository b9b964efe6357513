"""``make generate``: writes all files that are generated from the types; with ``--check`` it reports the stale ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from halcyon_api import families_reference
from halcyon_api.generate import argocd, crd, hardware_reference, json_schema, limits, reference

REPOSITORY = Path(__file__).resolve().parents[3]


def generated_files() -> dict[Path, str]:
    """Every generated file of the repository with the text it must have."""
    defaults = crd.render(crd.defaults_definition())
    return {
        REPOSITORY / "crds" / crd.CRD_FILE.name: crd.render(),
        REPOSITORY
        / "charts"
        / "halcyon"
        / "files"
        / crd.CRD_FILE.name: crd.render(),  # Helm reads only files inside the chart
        REPOSITORY / "crds" / crd.DEFAULTS_CRD_FILE.name: defaults,
        REPOSITORY / "charts" / "halcyon" / "files" / crd.DEFAULTS_CRD_FILE.name: defaults,
        REPOSITORY / "charts" / "halcyon" / "files" / "limits.yaml": limits.render(),
        json_schema.FOLDER / f"{json_schema.NAME}.json": json_schema.render(json_schema.document_schema()),
        json_schema.FOLDER / f"{json_schema.NAME}.patch.json": json_schema.render(json_schema.patch_schema()),
        json_schema.FOLDER / f"{json_schema.DEFAULTS_NAME}.json": json_schema.render(json_schema.defaults_schema()),
        argocd.CONFIG_MAP: argocd.render(),
        REPOSITORY / "docs" / "reference" / "trainingrun.md": reference.render(),
        REPOSITORY / "docs" / "reference" / "trainingrundefaults.md": reference.render_defaults(),
        REPOSITORY / "docs" / "reference" / "edits.md": reference.render_edits(),
        REPOSITORY / "docs" / "reference" / "models.md": families_reference.render(),
        REPOSITORY / "docs" / "hardware.md": hardware_reference.render(),
    }


def stale_files() -> list[Path]:
    """The generated files whose text on disk differs from the generated text."""
    return [
        path
        for path, text in generated_files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> int:
    """Write the files, or with ``--check`` fail if one is stale."""
    stale = stale_files()
    if list(arguments) == ["--check"]:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(REPOSITORY)} is stale; run 'make generate'\n")
        return 1 if stale else 0
    files = generated_files()
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(REPOSITORY)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
