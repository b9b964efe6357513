"""Texts with labels, queries with texts, and what a run has that learns them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.families import SMALL_FAMILIES

LABELS = ["bad", "good"]
_WORDS = (("poor", "awful", "dull"), ("fine", "great", "superb"))


def labelled(folder: Path, rows: int = 48, family: str = "llama") -> dict[str, Any]:
    """The sections of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = (f"{'very ' * (row % 5)}{_WORDS[row % 2][row % 3]} film" for row in range(rows))
    lines = [json.dumps({"text": text, "label": LABELS[row % 2]}) for row, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    source = {
        "name": "films",
        "jsonl": {"paths": [str(folder / "rows.jsonl")]},
        "format": {"text": {"labelField": "label"}},
    }
    model = {name: field for name, field in SMALL_FAMILIES[family].items() if not name.endswith("Norm")}
    return {
        "model": model | {"labels": LABELS},
        "tokenizer": {"byte": {}},
        "objective": {"classify": {}},
        "data": {"sources": [source], "validation": {"fraction": 0.25}},
    }


def paired(folder: Path, rows: int = 48, family: str = "llama", **contrastive: Any) -> dict[str, Any]:
    """The sections of a run that learns vectors of texts."""
    sections = labelled(folder, rows, family)
    texts = [f"{'very ' * (row % 5)}{_WORDS[row % 2][row % 3]}" for row in range(rows)]
    lines = [
        {"anchor": f"say {text}", "positive": text, "negatives": [texts[row - 1], "no"]}
        for row, text in enumerate(texts)
    ]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    del sections["model"]["labels"]
    pair = {"negativeFields": ["negatives"], "queryPrefix": "query: ", "textPrefix": "passage: "}
    sections["data"]["sources"][0]["format"] = {"pair": pair}
    return sections | {"objective": {"contrastive": contrastive}}
