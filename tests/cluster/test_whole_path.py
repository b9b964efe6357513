"""A run that loses its processes ends with bitwise the same losses as an undisturbed run: the demo's promise, with a
model that trains for seconds.

All parts are real: API server, JobSet, kubelet, object store, operator from its chart, trainers from their image. One
run, `life`, goes through all of it. In every case, no step up to the last checkpoint is done again, and the run's own
accounts are right.
"""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from prometheus_client.parser import text_string_to_metric_families

from halcyon_api.checkpoint_documents import decode_head
from halcyon_api.status.goodput import BADPUT_CAUSES, CAUSES, cause_label
from halcyon_demo.comparison import compare, losses
from halcyon_demo.install import RELEASE, helm
from tests.cluster.life import CLONE, NAME, REFERENCE, SAVE_EVERY, Life
from tests.cluster.whole_path import WholePath, check_accounts
from tests.suite import promises
from tests.suite.limits import limit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200), pytest.mark.xdist_group("path")]


def test_a_data_run_builds_the_tokens_that_other_runs_train_on(life: Life) -> None:
    built = life.began.built
    assert {line.fields["source"] for line in built} == {"source", "documentation"}
    assert len(built) == 2, "one of the two pods must build, the other one wait"
    status = life.began.tokens
    assert status.progress is None or status.progress.step == 0
    assert status.restarts.total == 0
    assert life.began.built_again == ()


def test_the_commands_show_a_run_that_trains(life: Life) -> None:
    for words in ("Running", "tokens/s", "2 slices", f"{NAME}-1-s-0-0", f"{NAME}-1-s-1-0", "▁"):
        assert words in life.began.status, words
    output = life.began.saved.split()
    assert output[:-1] == [NAME, "has", "saved", "step"]
    assert int(output[-1]) >= life.began.steps[0]


def test_an_eviction_costs_no_step(life: Life) -> None:
    recovery = life.evicted.recovery
    assert recovery.lost_steps == 0
    assert recovery.resumed_step >= life.evicted.step


def test_a_crash_costs_the_steps_since_the_checkpoint(life: Life) -> None:
    recovery = life.killed.recovery
    assert recovery.resumed_step % SAVE_EVERY == 0
    assert recovery.resumed_step >= life.killed.committed > 0


def test_a_run_continues_after_a_pod_deletion_and_an_eviction_without_an_operator(life: Life) -> None:
    groups = [life.evicted.recovery.group, life.killed.recovery.group, life.pod_deleted, life.unattended.recovery.group]
    assert groups == [(1, 0, 1), (1, 0, 2), (1, 0, 3), (1, 0, 4)]
    assert life.unattended.recovery.lost_steps == 0


def test_diff_says_what_an_edit_does_and_the_edit_costs_no_step(life: Life) -> None:
    output = life.edited.output
    assert "checkpoint.keep  2    4" in output
    assert "applying restarts the run at a checkpoint that is made for it: no step is lost" in output
    assert life.edited.status.attempt == 2
    assert life.edited.status.edit is None
    before, after = life.edited.status.history[-2:]
    assert before.cause == "specChanged"
    assert before.message is not None
    assert before.message.startswith("the spec was edited: checkpoint.keep; saved at step ")
    assert after.from_step is not None
    assert after.from_step >= int(before.message.rsplit(" ", 1)[1])
    assert after.from_step >= (before.to_step or 0)


def test_diff_says_what_each_document_does_to_a_suspended_run(life: Life) -> None:
    assert "Suspended" in life.suspended.output
    assert "is Suspended and trains no step" in life.suspended.refused
    assert life.suspended.same == "nothing differs\n"
    assert "trainer.seed must not change" in life.suspended.frozen
    assert "frozen" in life.suspended.frozen
    assert "greater than or equal to 1" in life.suspended.invalid
    assert "applying resumes the run, from its last checkpoint" in life.suspended.ending
    assert life.suspended.status.checkpoint is not None
    assert life.suspended.status.checkpoint.step == life.suspended.damaged.step


@promises.FALLBACK
def test_a_run_falls_back_from_a_flipped_bit_and_reports_it(life: Life) -> None:
    attempt = life.suspended.status.attempt + 1
    fallbacks = [line for line in life.ended.lines if line.event == "fallback"]
    assert {line.group for line in fallbacks} == {(attempt, 0, 0)}
    assert fallbacks[0].step == life.suspended.older.step
    assert f"step {life.suspended.damaged.step}" in str(fallbacks[0].fields)
    after = [line.step for line in life.ended.lines if line.event == "step" and line.group >= (attempt, 0)]
    assert min(after) == life.suspended.older.step + 1


@promises.SAME_LOSSES
def test_a_disturbed_run_has_bitwise_the_losses_of_an_undisturbed_run(life: Life) -> None:
    undisturbed = life.reference.status
    assert undisturbed.restarts.total == 0
    assert compare(losses(life.ended.lines, NAME), life.undisturbed, life.steps).differences == ()


@promises.GOODPUT
def test_every_end_has_its_cause_and_every_second_is_accounted_for(life: Life) -> None:
    status = life.ended.status
    *causes, unattended, edited, suspended, completed = [entry.cause for entry in status.history]
    assert causes == ["preempted", "failed", "podDeleted"]
    assert unattended in ("preempted", "unknown"), "no operator saw why"
    assert [edited, suspended, completed] == ["specChanged", "suspended", "completed"]
    restarts = status.restarts
    assert (restarts.failed, restarts.pod_deleted, restarts.spec_changed, restarts.resumed) == (1, 1, 1, 1)
    assert restarts.preempted + restarts.unknown == 2
    assert (restarts.total, restarts.in_place) == (6, 4)
    lost = sum(
        max(0, (before.to_step or 0) - (after.from_step or 0))
        for before, after in pairwise(status.history)
        if before.cause
        not in ("failed", "suspended")  # a crash, and a checkpoint that was damaged after its suspension
    )
    assert lost == 0
    check_accounts(status, life.ended.lines)
    check_accounts(life.reference.status, life.reference.lines)
    check_accounts(life.evaluated.status, life.evaluated.lines)


@promises.REPORT
def test_the_report_is_the_account_of_the_status(life: Life) -> None:
    report, goodput = life.ended.report, life.ended.status.goodput
    assert goodput is not None
    assert sum(report["seconds"].values()) == pytest.approx(report["wallSeconds"], abs=0.01)
    assert report["suspendedSeconds"] == pytest.approx(goodput.suspended_seconds)
    ends = [entry.cause for entry in life.ended.status.history]
    assert [group["ended"] for group in report["processGroups"]] == ends
    assert f"Succeeded, {report['ratio']:.1%} goodput" in life.ended.shown
    rows = [line.split() for line in life.ended.shown.splitlines()]
    groups = ("1", "1.0+1", "1.0+2", "1.0+3", "1.0+4", "2", "3")
    assert [row[2] for row in rows if row and row[0] in groups] == ends


@promises.GOODPUT
def test_the_operators_page_of_metrics_has_the_accounts_of_the_status(life: Life) -> None:
    """The run is suspended, so both cover the same seconds. A counter never falls, even if the status later moves
    seconds to another cause."""
    found, status = samples(life.suspended.page), life.suspended.status
    run = {"namespace": life.namespace, "run": NAME}
    assert status.goodput is not None
    assert found["halcyon_goodput_ratio", labels(run)] == pytest.approx(status.goodput.ratio)
    for cause in BADPUT_CAUSES:
        counted = found["halcyon_badput_seconds_total", labels(run | {"cause": cause_label(cause)})]
        assert counted >= getattr(status.goodput.seconds, cause) - 0.001, cause
    assert (
        found["halcyon_run_restarts_total", labels(run | {"cause": "podDeleted"})] == status.restarts.pod_deleted == 1
    )
    assert found["halcyon_run_attempt", labels(run)] == status.attempt
    assert status.checkpoint is not None
    assert found["halcyon_run_checkpoint_step", labels(run)] == status.checkpoint.step
    assert found["halcyon_run_phase", labels(run | {"phase": "Suspended"})] == 1


def test_a_trainers_page_of_metrics_has_its_steps_and_its_seconds_by_cause(life: Life) -> None:
    found = samples(life.began.page)
    before, after = life.began.steps
    assert before - 1 <= found["halcyon_trainer_step", ()] <= after + 1, (
        "a step's log line and its metric are not written at the same time"
    )
    seconds = {
        dict(key)["cause"]: value for (name, key), value in found.items() if name == "halcyon_trainer_seconds_total"
    }
    assert seconds.keys() == {cause_label(cause) for cause in CAUSES}
    assert seconds["productiveStep"] > 0
    assert seconds["lostWork"] == seconds["capacityWait"] == seconds["operatorDelay"] == 0, (
        "only the operator knows these causes"
    )


def labels(names: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(names.items()))


def samples(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """A page of metrics as Prometheus reads it: (name, labels) → value."""
    return {
        (one.name, labels(one.labels)): one.value
        for family in text_string_to_metric_families(page)
        for one in family.samples
    }


def test_git_and_the_cluster_never_differ(life: Life) -> None:
    """The operator edits no field that git sets, and git does not set the fields that `suspend` and `resume` edit."""
    assert (life.began.drift, life.suspended.drift, life.ended.drift) == ("", "", "")


def test_the_logs_of_all_processes_are_followed_to_the_end(life: Life) -> None:
    lines = [json.loads(line) for line in life.ended.followed.splitlines() if line.startswith("{")]
    assert {line["process"] for line in lines} == {0, 1}
    assert [line["time"] for line in lines if line["process"] == 0] == sorted(
        line["time"] for line in lines if line["process"] == 0
    )
    assert [line["step"] for line in lines if line["event"] == "done"] == [life.steps, life.steps]


def test_diff_reports_that_a_run_has_succeeded(life: Life) -> None:
    assert "the run has succeeded" in life.ended.over


def test_pods_train_under_the_restricted_profile(life: Life) -> None:
    assert life.ended.restricted == "restricted"


def test_the_store_holds_the_checkpoint_that_the_status_names(life: Life) -> None:
    status = life.reference.status
    assert status.checkpoint is not None
    assert status.progress is not None
    assert (status.checkpoint.step, status.checkpoint.source) == (life.more_steps, "root")
    assert status.progress.step == life.more_steps
    assert status.checkpoint.path.startswith(f"steps/{life.more_steps:012d}.000001.")


def test_runs_of_one_file_come_one_after_the_other(life: Life) -> None:
    tokens, train, evaluate = life.began.tokens, life.ended.status, life.evaluated.status
    assert (tokens.finished_at or "") <= (train.started_at or "")
    assert (train.finished_at or "") <= (evaluate.started_at or "")


def test_the_last_checkpoint_is_evaluated_on_each_source(life: Life) -> None:
    status, kept = life.evaluated.status, life.evaluated.kept
    found = {line.fields.get("source"): line.fields for line in life.evaluated.lines if line.event == "evaluation"}
    logged = [line.fields for line in life.ended.lines if line.event == "evaluation"][-1]
    assert found[None]["sequences"] == logged["sequences"], "it must be all that the training held out"
    assert found[None]["loss"] == pytest.approx(logged["loss"], rel=1e-5), "other batches, so equal but not bitwise"
    progress = status.progress
    assert progress is not None
    assert progress.evaluated is not None
    assert life.ended.status.checkpoint is not None
    checkpoint = life.ended.status.checkpoint
    assert (progress.evaluated.run, progress.evaluated.step, progress.evaluated.path) == (
        NAME,
        life.steps,
        checkpoint.path,
    )
    assert [one.source for one in progress.evaluated.sources] == ["source", "documentation"]
    assert progress.step == progress.steps > 0
    assert progress.evaluation_loss == pytest.approx(found[None]["loss"], abs=1e-4)
    assert status.checkpoint is None, "an evaluation saves no checkpoint"
    assert status.restarts.total == 0
    assert (kept["finished"], kept["loss"]) == (True, found[None]["loss"])


def test_a_clone_has_bitwise_the_losses_of_its_source(life: Life) -> None:
    found = life.cloned
    assert [(entry.from_step, entry.to_step) for entry in found.status.history] == [(found.earlier, life.steps)]
    own, reference = losses(found.lines, CLONE), {loss.step: loss.bits for loss in life.undisturbed}
    assert [loss.step for loss in own] == list(range(found.earlier + 1, life.steps + 1))
    assert [loss.bits for loss in own] == [reference[loss.step] for loss in own], "bitwise"


def test_the_checkpoints_of_a_deleted_finished_run_stay(life: Life) -> None:
    newest = decode_head(life.cloned.kept).newest
    assert newest is not None
    assert newest.step == life.steps


@promises.READS_THE_CHECKPOINT
def test_a_run_that_is_deleted_and_created_again_resumes(life: Life) -> None:
    (entry,) = life.again.status.history
    assert (entry.from_step, entry.to_step) == (life.steps, life.more_steps)
    assert life.again.status.attempt > life.ended.status.attempt, (
        "the attempt must be above the epoch that the root has seen"
    )
    assert compare(losses(life.again.lines, NAME), life.undisturbed, life.more_steps).differences == ()


def test_a_second_run_on_a_root_is_rejected_and_changes_nothing(life: Life) -> None:
    assert life.refused.stop_reason.startswith("CheckpointRootTaken")
    assert f"{life.namespace}/{REFERENCE}" in life.refused.stop_reason
    assert life.refused.after == life.refused.before
    assert life.refused.steps == 0


@promises.NEVER_FROM_ZERO
def test_without_a_valid_checkpoint_a_run_stops_and_never_starts_again(life: Life) -> None:
    assert life.ruined.stop_reason.startswith("NoValidCheckpoint")
    assert life.ruined.stalled
    assert life.ruined.steps == 0
    assert life.ruined.after.committed == life.ruined.before.committed, "checkpoints that may be repaired must be kept"


def test_the_operator_was_never_denied_a_right(life: Life) -> None:
    assert life.ruined
    assert len(life.operator_logs) == 2
    for log in life.operator_logs:
        assert log
        assert "forbidden" not in log.lower()


def test_helm_test_asks_the_operator(path: WholePath) -> None:
    output = helm(
        path.devcluster.cluster, "test", RELEASE, "--namespace", path.place.operator, "--timeout", f"{limit(120)}s"
    )
    assert "Succeeded" in output
