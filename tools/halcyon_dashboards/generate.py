"""Writes the dashboards and the rules into the chart, or with ``--check`` lists the stale ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from halcyon_dashboards import boards
from halcyon_dashboards.rules import rules

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = REPOSITORY / "charts" / "halcyon" / "files"
_HEAD = "# Made by `make generate` from tools/halcyon_dashboards; do not edit.\n"


def generated_files() -> dict[Path, str]:
    """Return every generated file: path → text."""
    dashboards = {
        FILES / "dashboards" / f"{name}.json": json.dumps(made, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"
        for name, made in boards.all_boards().items()
    }
    return {FILES / "rules.yaml": _HEAD + yaml.safe_dump(rules(), sort_keys=False, width=1000), **dashboards}


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> int:
    """Write the files and delete dashboards that have no source any more; with ``--check`` fail instead if there is
    anything to do.
    """
    files = generated_files()
    stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    left_over = [path for path in (FILES / "dashboards").glob("*.json") if path not in files]
    if list(arguments) == ["--check"]:
        for path in [*stale, *left_over]:
            sys.stderr.write(f"{path.relative_to(REPOSITORY)} is stale; run 'make generate'\n")
        return 1 if stale or left_over else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(REPOSITORY)}\n")
    for path in left_over:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
