"""How the benchmarks of a document ask its model, and how the task `evaluate` ends if one of them fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from halcyon.evals.benchmarks import read_of_document
from halcyon.host.errors import BadConfiguration, TrainerExit
from halcyon.host.storage.store import Store
from halcyon.parallel.process_group import ProcessGroup
from halcyon.run.benchmarks import Asking, SharedRunner, asking_of
from halcyon.tokenizer import BYTE, load
from halcyon_api.checkpoint_documents import HUGGING_FACE_PREFIX
from halcyon_api.reading import parse_run
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.evals.samples import ARC_HUB, lines
from tests.trainer.support.process_groups import run_document

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
        "sources": [
            {"name": f"source-{number}", "jsonl": {"paths": ["a.jsonl"]}, "format": form}
            for number, form in enumerate(forms)
        ]
    }
    store = Store(CheckpointSpec(root=f"file://{tmp_path / 'root'}"))
    store.write(f"{HUGGING_FACE_PREFIX}chat_template.jinja", OF_FILES.encode())
    assert asking_of(store, ProcessGroup(0, 1), spec=parse_run(document).spec) == expected


def test_hosts_with_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process has the same examples of the first task, and others of the second one."""

    def with_another(processes: ProcessGroup, text: str) -> list[str]:
        del processes
        return [text, text[:8] + "0" * 8]

    monkeypatch.setattr("halcyon.run.benchmarks.gather_texts", with_another)
    document = run_document(tmp_path / "root")
    path = str(lines(tmp_path / "arc.jsonl", ARC_HUB))
    document["spec"]["trainer"]["evaluation"] = {"tasks": {"files": {"arc-easy": path, "arc-challenge": path}}}
    spec = parse_run(document).spec
    tasks = spec.trainer.evaluation.tasks
    assert tasks is not None
    benchmarks = read_of_document(tasks)
    with pytest.raises(
        BadConfiguration, match=f"process 1 reads other examples of task {benchmarks[1].name} than process 0; give all "
    ):
        SharedRunner(benchmarks, spec, load(BYTE), Asking(False), Store(spec.checkpoint), ProcessGroup(0, 2), Mock())


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (MemoryError("too little"), TrainerExit, "MemoryError: too little"),
        (TrainerExit("a device was lost"), TrainerExit, "a device was lost"),
        (BadConfiguration("the task sets num_beams"), BadConfiguration, "the task sets num_beams"),
    ],
    ids=["machine", "device", "document"],
)
def test_only_a_fault_of_the_document_ends_an_evaluation_for_good(
    error: Exception, kind: type[TrainerExit], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halcyon.run.benchmarks.own_copy", Mock(side_effect=error))
    document = run_document(tmp_path / "root")
    document["spec"]["trainer"]["evaluation"] = {
        "tasks": {"files": {"arc-easy": str(lines(tmp_path / "arc.jsonl", ARC_HUB))}}
    }
    spec = parse_run(document).spec
    tasks = spec.trainer.evaluation.tasks
    assert tasks is not None
    benchmarks = read_of_document(tasks)
    runner = SharedRunner(
        benchmarks, spec, load(BYTE), Asking(False), Store(spec.checkpoint), ProcessGroup(0, 1), Mock()
    )
    with pytest.raises(TrainerExit, match=f"task arc-easy on the model of step 4: {reason}") as caught:
        runner.of_checkpoint(4, None, "0" * 64, lambda: None)
    assert type(caught.value) is kind
