"""Writes into published.json what the classes of transformers read from each config.json that it has.

Each ``config`` is in the shape of the hub: keys, nesting and form of rotary positions are those of a published model,
with smaller sizes. ``read`` has the values of its class in transformers.

It needs the environment of `tests.trainer.models.goldens.make`:

    goldens/bin/python -m tests.trainer.models.goldens.make_published
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers

FILE = Path(__file__).parent / "published.json"
OTHER_NAMES = {"kimi_k2": "deepseek_v3"}
"""Types of models that transformers computes under another name."""


def entries(document: dict[str, Any], common: set[str]) -> dict[str, Any]:
    """The values that the class of a model reads, without those that every class has."""
    kind = document["model_type"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(document | {"model_type": OTHER_NAMES.get(kind, kind)}))
        found = transformers.AutoConfig.from_pretrained(folder).get_text_config().to_dict()
    return {name: value for name, value in sorted(found.items()) if name not in common and not name.startswith("_")}


def main() -> None:
    """Write the file."""
    transformers.logging.set_verbosity_error()
    common = set(transformers.PreTrainedConfig().to_dict()) - {"tie_word_embeddings"}
    cases = {name: case["config"] for name, case in json.loads(FILE.read_text()).items()}
    lines = [
        f'"{name}": {{\n  "config": {json.dumps(config)},\n  "read": {json.dumps(entries(config, common))}\n}}'
        for name, config in sorted(cases.items())
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    sys.stdout.write(f"{len(lines)} configurations, transformers {transformers.__version__}\n")


if __name__ == "__main__":
    main()
