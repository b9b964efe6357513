"""Exports during a run: each is complete or absent, goes on after an interruption, and has the bits of its
checkpoint.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import halcyon
from halcyon.checkpoint.fingerprints import fingerprints, fingerprints_of
from halcyon.checkpoint.opening import entry_of
from halcyon.host.errors import RootTaken
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon.run.loop import TrainingEnd
from halcyon.weights import background
from halcyon.weights.background import Exporter, ExportFailed, is_complete, open_exports
from halcyon.weights.exporting import Part, export_model, plan_export
from halcyon.weights.root import stored_model
from halcyon_api.checkpoint_documents import CommittedStep, Owner, canonical_json
from halcyon_api.ends import ExitCode
from halcyon_api.reading import parse_run
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.export import ExportSpec
from halcyon_devcluster.machine import limit
from tests.trainer.checkpoint.helpers import OneProcess, Root, open_root, position
from tests.trainer.support.process_groups import each_restart, run_document, start_processes
from tests.trainer.weights.folders import TOKENS, llama_tensors, same_bits, store_of, tensors_of, write_folder

OWNER = Owner(namespace="tests", name="tuned")
LLAMA = {"numHiddenLayers": 2, "hiddenSize": 8, "intermediateSize": 12, "numAttentionHeads": 4, "numKeyValueHeads": 2}


@dataclass
class Scene:
    """A checkpoint root with a model of other weights at each step, and what exporters reported."""

    root: Path
    entries: list[CommittedStep]
    complete: list[int] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)

    @property
    def spec(self) -> CheckpointSpec:
        return CheckpointSpec(root=f"file://{self.root}")

    def exporter(
        self, *, every: int = 5, steps: int = 12, process: int = 0, processes: int = 1, **spec: Any
    ) -> Exporter:
        return open_exports(
            ExportSpec(every_steps=every, **spec),
            self.spec,
            steps=steps,
            owner=OWNER,
            committed=self.entries,
            processes=OneProcess(process, processes) if process == 0 else Follows(self, process, processes),
            on_complete=lambda step, *_: self.complete.append(step),
            on_failure=lambda step, why: self.failures.append((step, why)),
        )

    def export(self, **options: Any) -> Exporter:
        """Export everything in one process group, which then ends."""
        exporter = self.exporter(**options)
        exporter.begin(self.entries)
        try:
            assert exporter.shares_written(limit(60))
            if options.get("process", 0) == 0:
                exporter.finish()
        finally:
            exporter.close()
        return exporter

    def folder(self, step: int) -> Path:
        return self.root / "exports" / f"step-{step}"

    def expected(self, step: int, folder: Path, **options: Any) -> dict[str, np.ndarray]:
        store = store_of(self.root)
        export_model(stored_model(store, entry_of(store, step)), store_of(folder), **options)
        return tensors_of(folder)


@dataclass(frozen=True)
class Follows:
    """A process other than 0, which gets the answer of process 0 about the exports."""

    scene: Scene
    process_index: int
    process_count: int

    def agree(self, document: dict[str, Any] | None) -> dict[str, Any]:
        exports = store_of(self.scene.root / "exports")
        return {
            "result": {
                "complete": [one.step for one in self.scene.entries if is_complete(exports, one)],
                "newest": None,
            }
        }


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    root = tmp_path / "root"
    prints = fingerprints_of({"spec.model": {"family": "llama"} | LLAMA, "data": {}})
    spec = CheckpointSpec(root=f"file://{root}", keep=8)
    with open_root(Root(spec, root), owner=OWNER, fingerprints=prints, vocabulary=TOKENS, positions=32) as checkpointer:
        for step in (3, 5, 10, 12):
            model, _ = halcyon.load(f"hf:{write_folder(tmp_path / f'model-{step}', llama_tensors(seed=step))}")
            checkpointer.save(step, {"model": model, "step": np.int32(step)}, position(step))
        checkpointer.finish()
        yield Scene(root, list(checkpointer.committed))


def test_steps_that_are_due_are_exported_with_the_bits_of_their_checkpoints(scene: Scene, tmp_path: Path) -> None:
    scene.export()
    assert scene.complete == [5, 10, 12]
    assert not scene.folder(3).exists()
    for step in (5, 10, 12):
        assert same_bits(tensors_of(scene.folder(step)), llama_tensors(seed=step))
    assert list((scene.root / "exports").rglob("parts/*")) == []
    command = tmp_path / "command"
    scene.expected(10, command)
    names = sorted(file.name for file in command.iterdir())
    assert [(name, (scene.folder(10) / name).read_bytes()) for name in names] == [
        (name, (command / name).read_bytes()) for name in names
    ]
    again = scene.export()
    assert (scene.complete, again.complete_steps) == ([5, 10, 12], {5, 10, 12})


def test_a_type_can_be_chosen(scene: Scene) -> None:
    scene.export(dtype="bfloat16", every=10)
    assert {one.dtype.name for one in tensors_of(scene.folder(10)).values()} == {"bfloat16"}


def test_an_interrupted_export_is_continued_by_any_number_of_processes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process 1 of 2 wrote its files, then both ended: no model is there.

    A single process writes the others, and completes it.
    """
    monkeypatch.setattr(background, "FILE_BYTES", 2000)
    scene.export(process=1, processes=2)
    written = {file.name: file.stat().st_ino for file in scene.folder(10).glob("*.safetensors")}
    assert written
    assert not (scene.folder(10) / "config.json").exists()
    assert scene.complete == []
    scene.export()
    assert same_bits(tensors_of(scene.folder(10)), llama_tensors(seed=10))
    now = {file.name: file.stat().st_ino for file in scene.folder(10).iterdir()}
    assert {name: now[name] for name in written} == written, "a file that was complete was written again"
    assert scene.complete == [5, 10, 12]


def test_files_from_another_checkpoint_of_the_same_step_are_not_used(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FILE_BYTES", 2000)
    scene.export(process=1, processes=2)
    store = Store(CheckpointSpec(root=f"file://{scene.root}/exports"))
    key = "step-10/parts/1.json"
    share = Part.model_validate_json(store.read(key).data or b"")
    lost = share.model_copy(update={"manifest_sha256": "0" * 64})
    store.write(key, canonical_json(lost.document()))
    for name in (*share.files, "model-00001-of-00099.safetensors"):
        (scene.folder(10) / name).write_bytes(b"of the lost checkpoint")
    scene.export()
    assert same_bits(tensors_of(scene.folder(10)), llama_tensors(seed=10))


def test_a_model_is_not_complete_before_every_process_has_written_its_files(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FILE_BYTES", 2000)
    exporter = scene.exporter(processes=2, steps=10, every=10)
    exporter.begin(scene.entries)
    assert exporter.in_use(10)
    assert not exporter.in_use(5)
    assert exporter.shares_written(limit(60))
    with pytest.raises(ExportFailed, match=r"start it again: step 10: another process has not written its files"):
        exporter.finish()
    assert not (scene.folder(10) / "config.json").exists()
    scene.export(processes=2, process=1, steps=10, every=10)
    exporter = scene.export(processes=2, steps=10, every=10)
    assert not exporter.in_use(10)
    assert scene.complete == [10]


def test_a_store_that_fails_is_reported_once_and_the_end_of_the_run_fails(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_LAST_RETRY_SECONDS", 0.01)
    exporter = scene.exporter(steps=10, every=10)
    (scene.root / "exports" / "step-10").write_text("a file where the folder should be")
    exporter.begin(scene.entries)
    assert exporter.shares_written(limit(60))
    with pytest.raises(ExportFailed, match="step 10: the store does not answer"):
        exporter.finish()
    assert len(scene.failures) == 1
    (scene.root / "exports" / "step-10").unlink()
    scene.export(steps=10, every=10)
    assert scene.complete == [10]


def test_a_damaged_checkpoint_is_given_up_and_ends_nothing(scene: Scene) -> None:
    path = next(entry.path for entry in scene.entries if entry.step == 10)
    data = next(file for file in (scene.root / path).rglob("c/**/*") if file.is_file())
    data.write_bytes(data.read_bytes()[:-1] + b"\1")
    scene.export()
    assert scene.complete == [5, 12]
    assert [step for step, _ in scene.failures] == [10]
    assert not (scene.folder(10) / "config.json").exists()


def test_exports_of_an_earlier_run_of_the_same_name_are_replaced(scene: Scene) -> None:
    scene.export()
    earlier = {step: (scene.folder(step) / "model.safetensors").stat().st_ino for step in (5, 10, 12)}
    scene.entries = [
        one.model_copy(update={"manifest_sha256": "0" * 64}) if one.step == 10 else one for one in scene.entries
    ]
    exporter = scene.exporter()
    assert (exporter.complete_steps, exporter.newest_step) == ({5, 12}, 12)
    scene.entries = [one for one in scene.entries if one.step == 5]
    exporter = scene.exporter()
    assert (exporter.complete_steps, exporter.newest_step) == ({5}, 5), (
        "steps after the newest one are of an earlier run"
    )
    document = scene.root / "exports" / "complete" / "step-5.json"
    document.write_text(document.read_text().replace(scene.entries[0].path, "steps/of-another-run/"))
    scene.export()
    assert scene.complete == [5, 10, 12, 5]
    now = {step: (scene.folder(step) / "model.safetensors").stat().st_ino for step in (5, 10, 12)}
    assert [step for step in now if now[step] != earlier[step]] == [5]


def test_an_export_without_one_of_its_files_is_not_complete(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FILE_BYTES", 2000)
    scene.export()
    lost = sorted(scene.folder(10).glob("*.safetensors"))[1]
    lost.unlink()
    assert scene.exporter().complete_steps == {5, 12}
    scene.export()
    assert scene.complete == [5, 10, 12, 10]
    assert lost.exists()
    assert same_bits(tensors_of(scene.folder(10)), llama_tensors(seed=10))


def test_a_pending_export_keeps_no_part_of_its_checkpoint_in_memory(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three exports, two wait for another process, and one fails."""
    monkeypatch.setattr(background, "FILE_BYTES", 2000)
    monkeypatch.setattr(background, "_LAST_RETRY_SECONDS", 0.01)
    exporter = scene.exporter(processes=2)
    (scene.root / "exports" / "step-12").write_text("a file where the folder should be")
    exporter.begin(scene.entries)
    assert exporter.shares_written(limit(60))
    written = [one.plan for one in exporter._exports if one.mine_written]
    assert [one.entry.step for one in exporter._exports if one.plan is None] == [12]
    assert len(written) == 2
    assert all(plan is not None and not plan.stored.arrays._chunks for plan in written)
    exporter.close()


def test_an_export_that_earlier_processes_complete_meanwhile_is_not_written_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = scene.exporter(processes=2)
    scene.export()
    written = {file: file.stat().st_ino for file in scene.folder(10).iterdir() if file.suffix == ".safetensors"}
    late.begin(scene.entries)
    assert late.shares_written(limit(60))
    late.finish()
    late.close()
    assert {file: file.stat().st_ino for file in written} == written
    assert scene.complete == [5, 10, 12] * 2


def test_abandoned_exports_end_without_a_wait_and_are_continued(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = scene.exporter()
    exporter.abandon()
    exporter.begin(scene.entries)
    exporter.close()
    assert (scene.complete, scene.failures) == ([], [])
    scene.export()
    assert scene.complete == [5, 10, 12]


@pytest.mark.parametrize("step", [10, 12])
def test_damage_in_the_share_of_another_process_gives_the_export_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Process 1 finds the damage.

    The run fails only if it is the export of its last step; the next process group tries again.
    """
    monkeypatch.setattr(background, "FILE_BYTES", 1)
    path = next(entry.path for entry in scene.entries if entry.step == step)
    plan = plan_export(stored_model(store_of(scene.root), entry_of(store_of(scene.root), step)), file_bytes=1)
    theirs = {one.name for name in plan.share(1, 2) for one in plan.files[name]}
    assert "lm_head.weight" in theirs or "model.embed_tokens.weight" in theirs
    leaf = "head" if "lm_head.weight" in theirs else "embedding"
    data = next(file for file in (scene.root / path).rglob("c/**/*") if file.is_file() and leaf in str(file))
    intact = data.read_bytes()
    data.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    exporter = scene.exporter(processes=2)
    scene.export(process=1, processes=2)
    exporter.begin(scene.entries)
    assert exporter.shares_written(limit(60))
    if step == 12:
        with pytest.raises(ExportFailed, match=r"step 12: .* does not have the hash that the manifest names"):
            exporter.finish()
    else:
        exporter.finish()
    assert not exporter.in_use(step)
    exporter.close()
    assert scene.complete == [one for one in (5, 10, 12) if one != step]
    assert {one for one, _ in scene.failures} == {step}
    data.write_bytes(intact)
    scene.export(process=0, processes=1)
    assert sorted(scene.complete) == [5, 10, 12]


def test_the_folder_of_another_runs_exports_is_rejected(scene: Scene) -> None:
    (scene.root / "exports").mkdir()
    (scene.root / "exports" / "OWNER").write_text("tests/other")
    with pytest.raises(
        RootTaken, match=r"spec.export.root: .* holds the exports of run tests/other; give this run a folder of its own"
    ):
        scene.exporter()


def test_a_checkpoint_is_kept_while_it_is_exported(tmp_path: Path) -> None:
    class Reader:
        step = 1

        def committed(self, entry: CommittedStep) -> None:
            seen.append(entry.step)

        def not_saved(self, step: int) -> None:
            failed.append(step)

        def in_use(self, step: int) -> bool:
            return step == self.step

    seen: list[int] = []
    failed: list[int] = []
    reader = Reader()
    root = tmp_path / "root"
    with open_root(Root(CheckpointSpec(root=f"file://{root}", keep=2), root)) as checkpointer:
        checkpointer.add_reader(reader)
        kept: list[list[int]] = []
        for step in range(1, 7):
            reader.step = 1 if step < 5 else 0
            checkpointer.save(step, {"x": jax.numpy.zeros(3)}, position(step))
            checkpointer.finish()
            kept.append([entry.step for entry in checkpointer.committed])
    assert list(dict.fromkeys(seen)) == [1, 2, 3, 4, 5, 6]
    assert failed == []
    assert kept == [[1], [2, 1], [3, 2, 1], [4, 3, 1], [5, 4], [6, 5]]


def test_a_reader_hears_of_failed_saves_and_of_commits_that_were_reported_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of the second commit is lost, and the third save fails: the fourth save tells of the second checkpoint
    too.
    """

    class Reader:
        def committed(self, entry: CommittedStep) -> None:
            seen.append(entry.step)

        def not_saved(self, step: int) -> None:
            failed.append(step)

        def in_use(self, step: int) -> bool:
            return False

    seen: list[int] = []
    failed: list[int] = []
    root = tmp_path / "root"
    with open_root(Root(CheckpointSpec(root=f"file://{root}", keep=4), root)) as checkpointer:
        checkpointer.add_reader(Reader())
        save = checkpointer._saver.save

        def troubled(prefix: str, snapshot: Any, about: Any) -> Any:
            head = save(prefix, snapshot, about) if about.step != 3 else None
            if about.step in (2, 3):
                raise StoreFailure("UNKNOWN", "no answer")
            return head

        monkeypatch.setattr(checkpointer._saver, "save", troubled)
        for step in range(1, 5):
            checkpointer.save(step, {"x": jax.numpy.zeros(3)}, position(step))
            checkpointer.finish_within(None)
    assert list(dict.fromkeys(seen)) == [1, 2, 4]
    assert failed == [2, 3]


def test_a_due_step_that_was_not_saved_is_reported(scene: Scene) -> None:
    exporter = scene.exporter()
    for step in (7, 10):
        exporter.not_saved(step)
    assert scene.failures == [(10, "its checkpoint was not saved, so there is nothing to export")]


def test_an_export_changes_no_number_and_lies_below_the_checkpoints_by_default(tmp_path: Path) -> None:
    document = run_document(tmp_path / "root")
    plain = parse_run(document).spec
    document["spec"]["export"] = {"everySteps": 7}
    spec = parse_run(document).spec
    assert fingerprints(spec, data={}) == fingerprints(plain, data={})
    assert spec.export is not None
    assert [step for step in range(31) if spec.export.is_due(step, 30)] == [7, 14, 21, 28, 30]
    assert spec.export.place(spec.checkpoint).root == f"file://{tmp_path}/root/exports"
    other = ExportSpec(every_steps=1, root="s3://bucket/models")
    store = CheckpointSpec(root="s3://bucket/run", endpoint="http://store:7070", region="here")
    assert other.place(store) == CheckpointSpec(root="s3://bucket/models", endpoint="http://store:7070", region="here")
    assert other.place(spec.checkpoint) == CheckpointSpec(root="s3://bucket/models")


def test_an_interrupt_during_the_last_exports_leaves_a_run_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = run_document(tmp_path / "root", slices=1, topology="1x1", steps=12)
    for preempted in (True, False):
        monkeypatch.setattr("halcyon.run.train.train", lambda *_, end=preempted, **__: TrainingEnd(12, preempted=end))
        assert halcyon.train(document).complete is not preempted


@pytest.mark.slow
def test_a_run_exports_while_it_trains_and_through_a_preemption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process 1 gets a notice while it has not written its files of step 5.

    The losses are those of a run without exports.
    """
    calm = start_processes(run_document(tmp_path / "calm-root", steps=12, sequenceLength=16), tmp_path / "calm")
    assert calm.wait() == [ExitCode.DONE] * 2
    run = run_document(tmp_path / "root", steps=12, sequenceLength=16)
    run["spec"]["export"] = {"everySteps": 5, "root": f"file://{tmp_path}/models"}
    run["spec"]["checkpoint"]["save"] = {"everySteps": 3}
    monkeypatch.setenv("AWAIT_NOTICE", "8,0")
    monkeypatch.setenv("STALL_EXPORT", "5,1")
    monkeypatch.setenv("EXPORT_FILE_BYTES", "1")  # a file for each tensor, so that each process writes some
    losses: dict[int, float] = {}
    for number, group in enumerate(each_restart(run, tmp_path / "run", module="tests.trainer.support.trouble_child")):
        if number == 0:
            group.leader.wait_for(
                lambda events: any(event.get("event") == "step" and event["step"] >= 7 for event in events)
            )
            assert not (tmp_path / "models" / "step-5" / "config.json").exists()
            monkeypatch.setenv("AWAIT_NOTICE", "-1,-1")
            monkeypatch.setenv("STALL_EXPORT", "-1,-1")
            group.signal(signal.SIGTERM, 1)
            assert group.wait() == [ExitCode.PREEMPTED] * 2, group.leader.noise[-20:]
            assert not (tmp_path / "models" / "step-5" / "config.json").exists()
        else:
            assert group.wait() == [ExitCode.DONE] * 2, group.leader.noise[-20:]
            exported = [event["step"] for event in group.leader.events if event["event"] == "exported"]
            assert sorted(exported) == [5, 10, 12]  # each is complete when the last process has written its files
            assert group.leader.report()["progress"]["exportedStep"] == 12
        losses |= group.leader.losses()
    assert losses == calm.leader.losses()
    assert sorted(path.name for path in (tmp_path / "models").glob("step-*")) == ["step-10", "step-12", "step-5"]
    last, tokenizer = halcyon.load(str(tmp_path / "root"))
    exported_model, _ = halcyon.load(f"hf:{tmp_path}/models/step-12")
    assert tokenizer is not None
    tokens = [tokenizer.encode("three times four").tolist()]
    assert np.array_equal(np.asarray(halcyon.logits(last, tokens)), np.asarray(halcyon.logits(exported_model, tokens)))
