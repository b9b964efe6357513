"""A branch: the changed document of a run, trained from a checkpoint of that run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.host.errors import BadConfiguration, NoValidCheckpoint, RootTaken
from halcyon.host.storage.store import Store
from halcyon.run.branch import Branch
from halcyon.run.branching import branched, data_position
from halcyon.run.context import Context, resolve_context
from halcyon.telemetry.history.reading import read_history
from halcyon_api.checkpoint_documents import (
    ORIGIN_KEY,
    DataPosition,
    Epoch,
    Manifest,
    OriginRecord,
    Owner,
    canonical_json,
)
from halcyon_api.overrides import parse_override, with_overrides
from halcyon_api.reading import parse_run
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root, fill, snapshot_of
from tests.trainer.support.process_groups import run_document


def document(folder: Path, *changes: str, **trainer: Any) -> dict[str, Any]:
    base = run_document(folder / "root", slices=1, **trainer)
    base["spec"]["checkpoint"]["keep"] = 4
    return with_overrides(base, [parse_override(change) for change in changes])


SOURCES = [{"name": name, "text": {"paths": [f"/{name}"]}, "weight": weight} for name, weight in (("a", 1), ("b", 2))]
WEIGHTS = "spec.data.sources[1].weight"
POSITIONS: list[tuple[str, int | None]] = [
    ("spec.optimizer.learningRate=1.0", None),
    ("spec.trainer.precision={compute: bfloat16}", None),
    ("spec.trainer.steps=99", None),
    ("spec.trainer.batchSize=16", 240),
    ("spec.trainer.batchSchedule=[{fromStep: 40, batchSize: 16}]", 240),
    (f"{WEIGHTS}=5", 240),
    ("spec.data.mixture.blockSequences=64", 240),
    ("spec.trainer.seed=5", 0),
    ("spec.trainer.sequenceLength=32", 0),
    ("spec.data.order={windows: {sequences: 8}}", 0),
    ("spec.data.validation={fraction: 0.5}", 0),
    ("spec.data.sources=[{name: a, text: {paths: [/other]}, weight: 1}, {name: b, text: {paths: [/b]}, weight: 2}]", 0),
    ("spec.tokenizer={bpe: {vocabSize: 600}}", 0),
]


@pytest.mark.parametrize(("change", "position"), POSITIONS)
def test_a_branch_goes_on_in_the_data_unless_the_training_order_is_another_one(
    tmp_path: Path, change: str, position: int | None
) -> None:
    base = document(tmp_path)
    base["spec"]["data"]["sources"] = SOURCES
    now, then = (
        fingerprints(parse_run(with_overrides(base, changes)).spec, data={})
        for changes in ([parse_override(change)], [])
    )
    manifest = Manifest(
        step=30,
        epoch=Epoch(attempt=1, restart=0),
        owner=Owner(namespace="tests", name="tiny"),
        process_count=1,
        leaves=(),
        files=(),
        fingerprints=then,
        data_position=DataPosition(step=30, sequences=240, tokens=1),
        seed=0,
        versions={},
        mesh={},
        time="2026-01-01T00:00:00Z",
    )
    assert data_position(now.documents, manifest) == position


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """The root of a run."""
    return Root(CheckpointSpec(root=f"file://{tmp_path}/root", keep=5), tmp_path / "root")


@pytest.fixture
def context(root: Root, tmp_path: Path) -> Context:
    """A changed run whose root has checkpoints of the steps 2, 4 and 6."""
    found = resolve_context(document(tmp_path, "metadata.name=run", "spec.export={everySteps: 5, root: file:///e}"), {})
    prints = fingerprints(found.spec, data={})
    fill(root, 2, 4, 6, fingerprints=prints)
    spec = found.spec.model_copy(update={"checkpoint": root.spec})
    return replace(found, run=found.run.model_copy(update={"spec": spec}))


def test_a_branch_has_names_and_roots_of_its_own_and_begins_at_the_newest_or_the_named_step(
    context: Context, root: Root
) -> None:
    for wanted, step in ((None, 6), (4, 4)):
        found = branched(context, Branch("hot", wanted))
        assert found.owner.name == found.run.metadata.name == "run-hot"
        assert found.spec.checkpoint.root == f"{root.spec.root}-hot"
        assert found.spec.export is not None
        assert found.spec.export.root == "file:///e-hot"
        assert found.spec.origin is not None
        assert found.spec.origin.document() == {"run": "run", "root": root.spec.root, "step": step}
    assert branched(context, Branch("hot", 2, weights_only=True)).spec.origin.weights_only  # type: ignore[union-attr]


def test_a_branch_that_has_begun_keeps_its_checkpoint(context: Context, root: Root) -> None:
    spec = root.spec.model_copy(update={"root": f"{root.spec.root}-hot"})
    own, record = Store(spec), OriginRecord(run="run", root=root.spec.root, step=3, data_position=0)

    def begun(step: int) -> tuple[int | None, int | None]:
        own.write(ORIGIN_KEY, canonical_json(record.model_copy(update={"step": step}).document()))
        found = branched(context, Branch("hot")).spec.origin
        assert found is not None
        return found.step, found.data_position

    assert begun(4) == (4, None), "killed before its first commit"
    assert begun(3) == (6, None), "and the first run has deleted this step since"
    fill(Root(spec, Path(f"{root.folder}-hot")), 5)
    assert begun(3) == (3, 0), "the first run need not have it any more"
    with pytest.raises(BadConfiguration, match=r"--from-step 4: branch hot began at step 3; leave --from-step out"):
        branched(context, Branch("hot", 4))
    with pytest.raises(BadConfiguration, match=r"--weights-only: branch hot began with the whole state"):
        branched(context, Branch("hot", weights_only=True))
    own.write(ORIGIN_KEY, canonical_json(record.model_copy(update={"run": "other"}).document()))
    with pytest.raises(RootTaken, match=r"began from run other in .*; give the branch another name"):
        branched(context, Branch("hot"))


def test_a_branch_that_cannot_begin_is_refused_in_one_sentence(context: Context, tmp_path: Path) -> None:
    with pytest.raises(NoValidCheckpoint, match=r"--from-step 5: run run has no checkpoint of this step in .*6, 4, 2"):
        branched(context, Branch("hot", 5))
    with pytest.raises(BadConfiguration, match=r"--branch Hot: metadata\.name: "):
        branched(context, Branch("Hot"))
    short = context.spec.model_copy(update={"trainer": context.spec.trainer.model_copy(update={"steps": 6})})
    with pytest.raises(
        BadConfiguration, match=r"spec\.trainer\.steps: run run had done 6 steps .* earlier --from-step"
    ):
        branched(context.with_spec(short), Branch("hot"))
    fresh = context.spec.model_copy(update={"checkpoint": CheckpointSpec(root=f"file://{tmp_path}/none")})
    with pytest.raises(NoValidCheckpoint, match=r"run run has no checkpoint in .*none yet; leave --branch out"):
        branched(context.with_spec(fresh), Branch("hot"))
    with pytest.raises(BadConfiguration, match=r"in a cluster a branch is a new run with spec\.from"):
        branched(replace(context, epoch=Epoch(attempt=1, restart=0)), Branch("hot"))


def train(path: Path, *words: str, kill_after: int | None = None) -> subprocess.CompletedProcess[str] | None:
    """`halcyon train` in a process of its own, killed by SIGKILL after a step if one is given."""
    process = subprocess.Popen(
        [sys.executable, "-m", "halcyon.commands.main", "train", str(path), "--json", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("HALCYON_")},
    )
    assert process.stdout is not None
    if kill_after is not None:
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "step" and event["step"] >= kill_after:
                break
        process.kill()
        process.communicate()
        return None
    output, errors = process.communicate(timeout=limit(120))
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.mark.slow
def test_a_branch_that_was_killed_is_the_branch_that_was_not_and_its_parent_is_only_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document(tmp_path, steps=20)))
    first = train(path)
    assert first is not None
    assert first.returncode == 0, first.stderr
    before = snapshot_of(tmp_path / "root")
    changed = [
        f"--set=spec.{change}"
        for change in ("optimizer.learningRate=0.01", "trainer.batchSize=16", "trainer.steps=150")
    ]

    refused = train(path, changed[0])
    assert refused is not None
    assert "learningRate is 0.01 but was 0.003; set it back to go on, or " in refused.stdout
    assert "train the change as a branch: halcyon train run.yaml --branch NAME" in refused.stdout
    for name in ("whole", "killed"):
        words = (*changed, "--branch", name)
        if name == "killed":
            train(path, *words, "--from-step", "10", kill_after=25)
        else:
            words = (*words, "--from-step", "10")
        ended = train(path, *words)
        assert ended is not None
        assert ended.returncode == 0, ended.stderr

    whole, killed = (
        read_history(Store(CheckpointSpec(root=f"file://{tmp_path}/root-{name}"))) for name in ("whole", "killed")
    )
    assert len(killed.groups) == 2
    losses = [{row["step"]: row["loss"] for row in history.steps} for history in (whole, killed)]
    assert losses[0] == losses[1]
    assert sorted(losses[0]) == list(range(11, 151))
    assert killed.origin is not None
    assert (killed.origin.run, killed.origin.step, killed.origin.data_position) == ("tiny", 10, 80)
    assert killed.origin.changes[0] == "spec.optimizer.learningRate is 0.01 but was 0.003"
    assert snapshot_of(tmp_path / "root") == before
