"""Start from another run's checkpoint: which one is read, and the error if that is impossible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halcyon.checkpoint.fingerprints import fingerprints_of
from halcyon.checkpoint.opening import entry_of
from halcyon.checkpoint.origin import OtherRun, origin_store
from halcyon.host.errors import BadConfiguration, NoValidCheckpoint, RootTaken, RunChanged, TrainerExit
from halcyon_api.checkpoint_documents import MANIFEST_KEY, Fingerprints, Owner
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.origin import OriginSpec
from tests.trainer.checkpoint.helpers import (
    OneProcess,
    Root,
    epoch,
    fill,
    mesh,
    numbers,
    same_bits,
    snapshot_of,
    template,
    with_keep,
)

OWN = CheckpointSpec(root="file:///own")


def prints(*, layers: int = 4, vocab: int = 512, sha: str = "t", seed: int = 0) -> Fingerprints:
    return fingerprints_of(
        {
            "spec.model": {"family": "llama", "numHiddenLayers": layers},
            "spec.tokenizer": {"bpe": {"vocabSize": vocab}},
            "spec.trainer": {"seed": seed, "steps": 10},
            "data": {"tokenizerSha256": sha, "contents": seed},
        }
    )


@pytest.fixture
def source(root: Root) -> Root:
    kept = with_keep(root, 5)
    fill(kept, 2, 4, 6, epoch=epoch(3), fingerprints=prints())
    return kept


def begin(source: Root, *, step: int | None = None, run: str = "run", namespace: str = "tests", **changes: Any) -> Any:
    origin = OriginSpec(run=run, step=step, root=source.spec.root)
    own = CheckpointSpec(root="s3://bucket/own", endpoint=source.spec.endpoint) if source.spec.endpoint else OWN
    other = OtherRun(origin, origin_store(origin, own), Owner(namespace=namespace, name="clone"), OneProcess())
    arguments: dict[str, Any] = {"template": template(mesh(4, 1)), "fingerprints": prints(), "steps": 10}
    return other.restore(**(arguments | changes))


def test_a_clone_starts_from_the_named_or_newest_step_and_only_reads_the_root(source: Root) -> None:
    before = snapshot_of(source.folder)
    for step, wanted in ((4, 4), (None, 6)):
        begun = begin(source, step=step, fingerprints=prints(seed=7))
        assert (begun.step, begun.skipped) == (wanted, ())
        assert same_bits(begun.state, numbers(wanted))
    assert snapshot_of(source.folder) == before


def test_an_unreadable_manifest_does_not_say_that_nothing_differs(file_root: Root) -> None:
    kept = with_keep(file_root, 5)
    fill(kept, 2, epoch=epoch(3), fingerprints=prints())
    origin = OriginSpec(run="run", root=kept.spec.root)
    other = OtherRun(origin, origin_store(origin, OWN), Owner(namespace="tests", name="clone"), OneProcess())
    entry = entry_of(other.store, 2)
    assert other.record(entry, prints()).changes == ()
    (kept.folder / entry.path / MANIFEST_KEY).write_bytes(b"x")
    assert other.record(entry, prints()).changes[0].startswith("it is not known what differs")


def test_a_damaged_newest_checkpoint_is_skipped_but_a_damaged_named_one_is_not(source: Root) -> None:
    for path in source.files():
        if (
            "000000000006" in str(path)
            and "/data/" in str(path)
            and path.suffix != ".json"
            and path.stat().st_size > 100
        ):
            path.write_bytes(b"x" * path.stat().st_size)
    begun = begin(source)
    assert (begun.step, [bad.step for bad in begun.skipped]) == (4, [6])
    with pytest.raises(
        NoValidCheckpoint, match=r"no checkpoint of run run in .* verifies \(step 6: .*name another spec\.from\.step"
    ):
        begin(source, step=6)


REFUSALS: list[tuple[dict[str, Any], type[TrainerExit], str]] = [
    (
        {"fingerprints": prints(layers=6)},
        RunChanged,
        r"spec\.model\.numHiddenLayers is 6 but was 4; a run that begins from another one keeps",
    ),
    (
        {"fingerprints": prints(vocab=600)},
        RunChanged,
        r"spec\.tokenizer\.bpe\.vocabSize is 600 but was 512; a run that begins",
    ),
    (
        {"fingerprints": prints(sha="u")},
        RunChanged,
        r"tokenizer\.sha256 is u but was t; a run that begins from another one keeps its model",
    ),
    (
        {"steps": 6},
        RunChanged,
        r"spec\.trainer\.steps: 6 must be more than the 6 steps that run run had done at its checkpoint",
    ),
    (
        {"step": 5},
        NoValidCheckpoint,
        r"run run has no checkpoint of step 5 in .* \(any more\); its steps are 6, 4, 2; pin a",
    ),
    ({"run": "other"}, RootTaken, r"is of run tests/run, not of tests/other; correct spec\.from"),
    ({"namespace": "elsewhere"}, RootTaken, r"is of run tests/run, not of elsewhere/run; correct spec\.from"),
]


@pytest.mark.parametrize(("changes", "kind", "text"), REFUSALS)
def test_an_unusable_source_checkpoint_is_reported_in_one_sentence(
    source: Root, changes: dict[str, Any], kind: type[TrainerExit], text: str
) -> None:
    with pytest.raises(kind, match=text):
        begin(source, **changes)


def test_arrays_of_another_state_are_reported(source: Root) -> None:
    surplus = {**template(mesh(2, 2)), "window": np.zeros(3, np.float32)}
    with pytest.raises(
        RunChanged,
        match=r"the state has an array window that the checkpoint does not have .*keeps its model, adapter, "
        r"tokenizer and kind of optimizer",
    ):
        begin(source, template=surplus)


def test_a_root_without_a_checkpoint_and_a_missing_root_are_reported(root: Root) -> None:
    with pytest.raises(NoValidCheckpoint, match=r"run run has no checkpoint in .* yet; wait for its first"):
        begin(root)
    with pytest.raises(BadConfiguration, match=r"spec\.from\.root: only the operator can look up"):
        origin_store(OriginSpec(run="run"), OWN)
