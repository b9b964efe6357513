"""How the tasks of a document ask its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from halcyon.parallel.process_group import ProcessGroup
from halcyon.storage.store import Store
from halcyon.training.tasks import Asking, asking_of
from halcyon_api.checkpoint_documents import HUGGING_FACE_PREFIX
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.training_run import parse_run
from tests.trainer.process_groups import run_document

OTHER, OF_FILES = "{% generation %}other{% endgeneration %}", "of the files"
MINE = "{% generation %}mine{% endgeneration %}{% if add_generation_prompt %}Answer:{% endif %}"


@pytest.mark.parametrize(
    ("objective", "forms", "expected"),
    [
        ("nextToken", [{"text": {}}], Asking(False, OF_FILES)),
        ("finetune", [{"chat": {"template": MINE}}], Asking(True, MINE)),
        ("finetune", [{"chat": {"template": MINE}}, {"chat": {"template": MINE}}], Asking(True, MINE)),
        ("finetune", [{"chat": {"template": MINE}}, {"chat": {"template": OTHER}}], Asking(True, OF_FILES)),
        ("finetune", [{"chat": {"template": OTHER}}], Asking(True, OF_FILES)),  # it does not begin the assistant's turn
        ("finetune", [{"chat": {}}], Asking(True, None)),
        ("preference", [{"preference": {"template": MINE}}], Asking(True, MINE)),
        ("policy", [{"prompt": {"template": MINE}}], Asking(True, MINE)),
    ],
)
def test_a_model_is_asked_with_the_template_that_it_is_trained_with(
    objective: str, forms: list[dict[str, Any]], expected: Asking, tmp_path: Path
) -> None:
    settings = {"preference": {"simpo": {}}, "policy": {"reward": "gsm8k"}}
    document = run_document(tmp_path / "root")
    document["spec"]["objective"] = {objective: settings.get(objective, {})}
    document["spec"]["data"] = {
        "sources": [{"name": f"source-{number}", "jsonl": {"paths": ["a.jsonl"]}, "format": form} for number, form in enumerate(forms)]
    }
    store = Store(CheckpointSpec(root=f"file://{tmp_path / 'root'}"))
    store.write(f"{HUGGING_FACE_PREFIX}chat_template.jinja", OF_FILES.encode())
    assert asking_of(store, ProcessGroup(0, 1), spec=parse_run(document).spec) == expected
