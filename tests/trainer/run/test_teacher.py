"""A run with a teacher: a SIGKILL and a replay give the same bits, without the teacher's files; a wrong teacher is
refused.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer, models

from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.host.errors import BadConfiguration
from halcyon.run.beginning import from_origin
from halcyon.run.place import Place
from halcyon.run.teacher import with_teacher
from halcyon.step.program import build_program
from halcyon.tokenizer import load
from halcyon.tokenizer.definition import BYTE
from halcyon_api.checkpoint_documents import Owner
from halcyon_api.ends import ExitCode
from halcyon_api.reading import parse_run
from tests.trainer.checkpoint.helpers import OneProcess
from tests.trainer.run.test_policy_run import AHEAD, NUMBERS
from tests.trainer.run.test_policy_run import MODULE as POLICY_MODULE
from tests.trainer.run.test_policy_run import document_of as policy_document
from tests.trainer.run.test_replay import replayed
from tests.trainer.support.meshes import mesh_of
from tests.trainer.support.process_groups import each_restart, run_document, start_processes
from tests.trainer.weights.folders import llama_tensors, write_folder

WIDTH, TOKENS = 16, 264
MODEL = {
    "family": "llama",
    "numHiddenLayers": 2,
    "hiddenSize": WIDTH,
    "intermediateSize": 24,
    "numAttentionHeads": 4,
    "numKeyValueHeads": 2,
}


def teacher_in(folder: Path) -> Path:
    tensors = llama_tensors(width=WIDTH, mlp=24, tokens=TOKENS)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 24, "vocab_size": TOKENS}
    return write_folder(folder, tensors, max_position_embeddings=64, **sizes)


def document_of(folder: Path, kind: str, teacher: Path) -> dict[str, Any]:
    if kind == "policy":
        document = policy_document(folder, AHEAD)
    else:
        document = run_document(folder / "root", slices=1, topology="1x2", steps=6, batchSize=4, sequenceLength=32)
        document["spec"] |= {"objective": {"nextToken": {}}}
        document["spec"]["checkpoint"]["save"] = {"everySteps": 3}
    document["spec"]["objective"]["teacher"] = {"path": str(teacher), "model": MODEL, "weight": 0.5, "beta": 0.5}
    return document


def numbers(events: list[dict[str, Any]], kind: str) -> dict[int, tuple[float, ...]]:
    names = NUMBERS if kind == "policy" else ("loss", "gradientNorm")
    steps = [event for event in events if event["event"] == "step"]
    return {event["step"]: tuple(event[name] for name in (*names, "teacherDivergence")) for event in steps}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nextToken", pytest.param("policy", marks=pytest.mark.variant)])
def test_a_killed_run_has_the_same_losses_and_needs_the_files_of_its_teacher_only_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = teacher_in(tmp_path / "teacher")
    calm = start_processes(document_of(tmp_path / "calm", kind, teacher), tmp_path / "calm-log", module=POLICY_MODULE)
    assert calm.wait() == [ExitCode.DONE], calm.leader.output_tail()
    expected = numbers(calm.leader.events, kind)
    assert sorted(expected) == [1, 2, 3, 4, 5, 6]
    for name, value in {"KILL": "step:6", "KILLED": tmp_path / "killed", "ROOT": tmp_path / "own" / "root"}.items():
        monkeypatch.setenv(name, str(value))
    document = document_of(tmp_path / "own", kind, teacher)
    found: dict[int, tuple[float, ...]] = {}
    codes: list[int] = []
    for group in each_restart(document, tmp_path / "log", module=POLICY_MODULE):
        if codes:
            shutil.rmtree(teacher)
        elif kind == "nextToken":
            group.leader.wait_for(lambda events: any(event["event"] == "checkpoint" for event in events))
            group.signal(signal.SIGKILL, 0)
        codes += group.wait()
        found |= numbers(group.leader.events, kind)
    assert codes == [-signal.SIGKILL, ExitCode.DONE]
    assert found == expected
    path = tmp_path / "own" / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    code, record = replayed(path, "--from", 3)
    assert (code, record["identical"], record["comparedSteps"]) == (0, True, 3)


WARNINGS: list[str] = []


def begun(tmp_path: Path, teacher: Path, **model: Any) -> Any:
    document = document_of(tmp_path, "nextToken", teacher)
    document["spec"]["objective"]["teacher"]["model"] = MODEL | model
    spec = parse_run(document).spec
    tokenizer = load(BYTE)
    program = build_program(spec, tokenizer.vocab_size, mesh_of(fsdp=2))
    context: Any = SimpleNamespace(spec=spec, owner=Owner(namespace="tests", name="taught"))
    reporter: Any = SimpleNamespace(warning=WARNINGS.append)
    place = Place(context, OneProcess(), reporter)  # type: ignore[arg-type]
    beginning = from_origin(place, program, fingerprints(spec, data={}))
    return with_teacher(place, program, tokenizer, beginning, beginning.state(program))


def test_another_model_or_tokenizer_is_refused_by_its_field(tmp_path: Path) -> None:
    folder = teacher_in(tmp_path / "teacher")
    WARNINGS.clear()
    assert begun(tmp_path, folder).reference is not None
    assert len(WARNINGS) == 1
    assert "has no tokenizer, so it was not compared with spec.tokenizer" in WARNINGS[0]
    with pytest.raises(
        BadConfiguration,
        match=r"^spec\.objective\.teacher: .*: hidden_size is 16 there, and 32 by spec\.objective\.teacher\.model; set",
    ):
        begun(tmp_path, folder, hiddenSize=32)
    other = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))  # noqa: S106 - no password
    (folder / "tokenizer.json").write_text(other.to_str())
    with pytest.raises(BadConfiguration, match=r"^spec\.objective\.teacher\.path: the tokenizer in .* is not spec"):
        begun(tmp_path, folder)
    (folder / "tokenizer.json").unlink()
    write_folder(folder, llama_tensors())
    with pytest.raises(BadConfiguration, match=r"or another one in spec\.objective\.teacher$"):
        begun(tmp_path, folder)
