"""Writes observed runs as test data of the Argo CD scripts, into the folder that `HALCYON_RECORD` names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml


def record(run: dict[str, Any], name: str = "") -> None:
    """Write a run if recording is on and its state was not written before."""
    if folder := os.environ.get("HALCYON_RECORD"):
        conditions = {one["type"]: one for one in run.get("status", {}).get("conditions", [])}
        stalled = conditions.get("Stalled", {}).get("status") == "True"
        phase = run.get("status", {}).get("phase", "unseen").lower()
        file = Path(folder) / f"{name or phase}{'-stalled' if stalled and phase != 'failed' else ''}.yaml"
        if not file.exists():
            run = {key: value for key, value in run.items() if key != "metadata"} | {
                "metadata": {
                    key: value for key, value in run["metadata"].items() if key not in ("managedFields", "annotations")
                }
            }
            run["metadata"]["namespace"] = "training"
            file.write_text(yaml.safe_dump(run, sort_keys=False, width=140))
