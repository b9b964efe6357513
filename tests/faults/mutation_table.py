"""The mutations: each breaks one thing on purpose, and names the tests of `make test` that must fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.faults import rows

Package = Literal["trainer/halcyon", "operator/halcyon_operator", "crds/halcyon_api"]
"""The package that holds the file."""

_ISOLATION = "One tenant's trouble is no other tenant's"
_FINALITY = "A temporary fault never ends a run, and a fix of the cause lets a stopped run continue"
_TRUST = "An object that only has a run's labels is not trusted"
_LOSS = "Every row of a batch has a loss, and only the assistant's tokens are in it"
_REFERENCE = "A run that begins with the files of a model computes what transformers computes of them"
_ENDS = "An exported model ends its answers in other programs where it ends them here"
_BUDGETS = "A request or a file of a stranger has a budget of time and memory"
_HELD = "A pod whose trainer has ended holds no hardware"
_PLANNED = "A run that cannot fit takes no hardware"
_REPLAYED = "A replay compares every number and every array"
_EVIDENCE = "What is missing in a root counts as wrong"
_CHECKS = "A program of a model passes only if its checks ran to their end"
_PRESENT = "A condition names what is wrong with the present objects"
_SPENT = "No report of a trainer changes what its run has used"
_SKIPPED = "Gradients of attention are those of the reference, whatever tiles a kernel leaves out"
_DEADLINE = "A process that has decided to end ends, with the exit code of its cause"
PROMISES = (
    _ISOLATION,
    _FINALITY,
    _TRUST,
    _LOSS,
    _REFERENCE,
    _ENDS,
    _BUDGETS,
    _HELD,
    _PLANNED,
    _REPLAYED,
    _EVIDENCE,
    _CHECKS,
    _PRESENT,
    _SPENT,
    _DEADLINE,
    _SKIPPED,
)
"""Promises that are no rows of the fault table."""


@dataclass(frozen=True)
class Mutation:
    """One deliberate defect."""

    what: str
    edits: tuple[tuple[str, str, str], ...]
    """(file below the package, text that occurs in it exactly once, replacement)"""
    tests: tuple[str, ...]
    """Tests that must fail. Each is in the tier `test`, so that `make test` alone finds the mutation."""
    row: str
    package: Package = "trainer/halcyon"


def _row(mark: object) -> str:
    return mark.mark.kwargs["row"]  # type: ignore[attr-defined]


MUTATIONS = (
    Mutation(
        "the hash of a file is not checked",
        (("checkpoint/verify.py", "if _sha256(data) != file.sha256:", "if False:"),),
        ("tests/faults/test_damage.py::test_every_kind_of_damage_to_every_file_of_a_checkpoint_is_detected[file-1]",),
        _row(rows.DAMAGE),
    ),
    Mutation(
        "the classes of the contract are built at their first use, from the local variables of the caller",
        (
            (
                "base.py",
                "        alias_generator=to_camel,",
                "        alias_generator=to_camel,\n        defer_build=True,",
            ),
            ("base.py", "if not cls.__pydantic_complete__:", "if False:"),
        ),
        ("tests/faults/test_lost_head.py::test_a_fresh_process_has_every_class_of_the_contract_complete",),
        _row(rows.LOST_HEAD),
        "crds/halcyon_api",
    ),
    Mutation(
        "a lost HEAD is rebuilt, and nobody is told",
        (("run/beginning.py", "if head_loss is not None:", "if False:"),),
        (
            "tests/faults/test_lost_head.py::test_a_training_goes_on_from_its_newest_checkpoint_and_says_why_head_was_rebuilt[garbage]",
        ),
        _row(rows.LOST_HEAD),
    ),
    Mutation(
        "the fence is skipped: a writer that lost the root continues from the present HEAD",
        (("checkpoint/head.py", "if (head.epoch, head.writer) != (epoch, writer):", "if False:"),),
        (
            "tests/faults/test_two_writers.py::test_a_writer_continued_in_mid_save_after_it_was_replaced_changes_nothing[file-25]",
        ),
        _row(rows.TWO_WRITERS),
    ),
    Mutation(
        "HEAD is changed before COMMIT is written",
        (
            (
                "checkpoint/commit.py",
                ", (documents.COMMIT_KEY, encode_commit(data, about.epoch))):",
                ",):",
            ),
            (
                "checkpoint/commit.py",
                "    return entry\n\n\nclass Undecided",
                '    store.create(f"{prefix}{documents.COMMIT_KEY}", encode_commit(data, about.epoch))\n    return '
                "entry\n\n\nclass Undecided",
            ),
        ),
        ("tests/faults/test_kills.py::test_the_engine_killed_before_each_write_of_a_commit[file]",),
        _row(rows.KILLS),
    ),
    Mutation(
        "a COMMIT that was written, but whose answer was lost, counts as another writer's",
        (("host/storage/store.py", "return self.read(key).data == data", "return False"),),
        ("tests/faults/test_store.py::test_one_fault_of_every_request_is_retried[lose]",),
        _row(rows.STORE),
    ),
    Mutation(
        "a failed save is not reported",
        (
            (
                "checkpoint/checkpointer.py",
                "                self._callbacks.on_failure(self.last_error)",
                "                pass",
            ),
        ),
        ("tests/faults/test_root.py::test_an_exceeded_quota_costs_checkpoints_and_not_the_training",),
        _row(rows.ROOT),
    ),
    Mutation(
        "the newest checkpoint is the one with the latest time",
        (
            (
                "checkpoint/head.py",
                "key=lambda one: (one.step, one.epoch), reverse=True",
                "key=lambda one: one.time, reverse=True",
            ),
        ),
        ("tests/faults/test_root.py::test_no_decision_depends_on_a_clock_that_is_set_back_an_hour",),
        _row(rows.ROOT),
    ),
    Mutation(
        "a chunk is given to only one of the regions that need it",
        (("checkpoint/reader.py", "for key in self.needed[indices]:", "for key in self.needed[indices][:1]:"),),
        ("tests/faults/test_topology.py::test_from_mesh_to_mesh_all_bits_stay[file]",),
        _row(rows.TOPOLOGY),
    ),
    Mutation(
        "a reconcile waits for the store without a limit",
        (("observe/head_reads.py", "        return HeadPending()\n", "        return await self._heads.read(spec)\n"),),
        ("tests/operator/test_isolation.py::test_runs_on_a_silent_store_delay_no_other_tenants_run[100]",),
        _ISOLATION,
        "operator/halcyon_operator",
    ),
    Mutation(
        "a namespace with many runs is served first",
        (
            (
                "run/work_queue.py",
                "self._ready[group] = keys  # after all other groups",
                "self._ready[group] = keys; self._ready.move_to_end(group, last=False)",
            ),
        ),
        ("tests/operator/test_work_queue.py::test_groups_take_turns",),
        _ISOLATION,
        "operator/halcyon_operator",
    ),
    Mutation(
        "a HEAD of any size is read",
        (("observe/checkpoints.py", 'if result.meta["size"] > MAX_HEAD_BYTES:', "if False:"),),
        ("tests/operator/test_s3.py::test_a_large_head_is_decoded_in_a_thread_and_a_larger_one_is_refused",),
        _ISOLATION,
        "operator/halcyon_operator",
    ),
    Mutation(
        "a root that is unusable for a moment stops the run permanently",
        (
            (
                "decide/next/recovery.py",
                'Rule(STORE_ENDS, "same", "the store may work again later: after a pause that grows each time"),',
                'Rule(STORE_ENDS, "stop", "broken", reason="CheckpointRootUnusable"),',
            ),
        ),
        ("tests/operator/test_backoff.py::test_a_store_that_refuses_is_retried_with_growing_pauses_and_without_end",),
        _FINALITY,
        "operator/halcyon_operator",
    ),
    Mutation(
        "the pause before the next attempt does not grow",
        (("decide/next/backoff.py", "FIRST_PAUSE_SECONDS * 2 ** min(ends - 1, 16)", "FIRST_PAUSE_SECONDS"),),
        ("tests/operator/test_backoff.py::test_evictions_without_a_checkpoint_are_free_at_first_and_then_delayed",),
        _FINALITY,
        "operator/halcyon_operator",
    ),
    Mutation(
        "any edit starts a stopped run again",
        (
            (
                "decide/record/edits.py",
                "retry = newer and any(change.starts_again for change in found)",
                "retry = newer",
            ),
        ),
        ("tests/operator/test_attempts.py::test_a_stopped_run_starts_again_only_after_an_edit_that_may_fix_it",),
        _FINALITY,
        "operator/halcyon_operator",
    ),
    Mutation(
        "a suspended run's pods are deleted before it has saved",
        (
            (
                "decide/next/attempts.py",
                "at_work and trains(status) and status.edit is not None and",
                "False and",
            ),
        ),
        (
            "tests/operator/test_suspension.py::test_a_suspended_run_is_asked_for_a_checkpoint_and_stopped_when_it_is_committed",
        ),
        _FINALITY,
        "operator/halcyon_operator",
    ),
    Mutation(
        "a JobSet that an administrator suspends is replaced",
        (
            (
                "decide/next/attempts.py",
                "    return steps.Keep(jobset) if jobset is not None and by_hand else None",
                '    return steps.Stop(EndCause.PREEMPTED, "broken") if jobset is not None and by_hand else None',
            ),
        ),
        (
            "tests/operator/test_bad_input.py::test_a_jobset_suspended_by_hand_stays_suspended_and_a_new_attempt_follows_its_resumption",
        ),
        _FINALITY,
        "operator/halcyon_operator",
    ),
    Mutation(
        "a pod with the run's labels is the run's own",
        (("model/ownership.py", "return made and bool(pod.uid) and", "return bool(pod.uid) or"),),
        ("tests/operator/test_trust.py::test_a_foreign_pod_with_the_runs_labels_does_not_belong_to_the_run",),
        _TRUST,
        "operator/halcyon_operator",
    ),
    Mutation(
        "a foreign JobSet uses up attempts",
        (
            (
                "decide/next/next_attempt.py",
                "return max(status.attempt, status.root_attempt, highest_own(observed))",
                "return max(status.attempt, status.root_attempt, *(jobset.attempt for jobset in observed.jobsets), 0)",
            ),
        ),
        ("tests/operator/test_trust.py::test_a_foreign_jobset_with_a_high_attempt_uses_up_no_number",),
        _TRUST,
        "operator/halcyon_operator",
    ),
    Mutation(
        "a source that does not answer counts as a mistake in the document",
        (
            (
                "data/sources/failures.py",
                "return (Unreachable if is_outage(error) else Unreadable)(message)",
                "return Unreadable(message)",
            ),
        ),
        ("tests/trainer/data/sources/test_outages.py::test_an_outage_during_a_read_is_no_mistake_of_the_document",),
        _FINALITY,
    ),
    Mutation(
        "a checkpoint root that does not answer at the start counts as a crash",
        (
            (
                "host/storage/failures.py",
                "if failure.code in _LASTING or failure.is_outage else",
                "if failure.code in _LASTING else",
            ),
        ),
        ("tests/trainer/checkpoint/test_opening.py::test_a_store_that_cannot_be_reached_is_no_failure_of_the_run",),
        _FINALITY,
    ),
    Mutation(
        "the loss mask of conversations is lost",
        (("data/formats/chat.py", "encoded.within(rendered.counted)", "encoded.within([(0, 10**9)])"),),
        (
            "tests/trainer/data/test_conversation_rows.py::test_every_row_counts_and_only_the_assistant_counts_at_any_sequence_length",
        ),
        _LOSS,
    ),
    Mutation(
        "a long conversation keeps its beginning, even if no token of it counts",
        (
            ("data/layout/whole.py", "lengths[:, 0]), late, 0)", "lengths[:, 0]), 0, 0)"),
            ("data/layout/whole.py", "some = np.flatnonzero(counts)", "some = np.flatnonzero(kept.sum(axis=1))"),
        ),
        (
            "tests/trainer/data/test_conversation_rows.py::test_every_row_counts_and_only_the_assistant_counts_at_any_sequence_length",
        ),
        _LOSS,
    ),
    Mutation(
        "an export names no token that ends the assistant's turn",
        (("weights/companions.py", "*(() if turn is None else (turn.id,))", "*()"),),
        (
            "tests/trainer/weights/test_chat_template.py::test_an_export_names_every_token_at_which_an_answer_ends[chat]",
        ),
        _ENDS,
    ),
    Mutation(
        "an exported tokenizer puts nothing before a text",
        (
            (
                "weights/companions.py",
                "        written[TOKENIZER_KEY] = with_prefix(definition.content, tokenizer)\n",
                "        written[TOKENIZER_KEY] = definition.content\n",
            ),
        ),
        (
            "tests/trainer/weights/test_chat_template.py::test_an_exported_tokenizer_puts_before_a_text_what_stands_there_here",
        ),
        _ENDS,
    ),
    Mutation(
        "the trained model is its own reference",
        (
            (
                "step/objectives/objective.py",
                "return jax.lax.stop_gradient(without_adapter(model) if frozen is None else frozen)",
                "return jax.lax.stop_gradient(model)",
            ),
        ),
        (
            "tests/trainer/step/objectives/test_preference.py::test_dpo_compares_each_answer_with_the_begin_weights_on_any_mesh",
        ),
        _LOSS,
    ),
    Mutation(
        "the rows that pad the vocabulary take part in the softmax",
        (("models/softmax.py", "        if self.tokens is None:", "        if True:"),),
        (
            "tests/trainer/weights/test_first_step.py::test_the_first_step_and_the_evaluation_are_those_of_transformers[gpt2-50257]",
        ),
        _REFERENCE,
    ),
    Mutation(
        "tokens of padding count in the losses of routers",
        (
            (
                "models/parts/moe.py",
                "hax.ones(tokens) if weights is None else weights.rearrange(tokens)",
                "hax.ones(tokens)",
            ),
        ),
        (
            "tests/trainer/weights/test_first_step.py::test_the_first_step_and_the_evaluation_are_those_of_transformers[mixtral-259]",
        ),
        _REFERENCE,
    ),
    Mutation(
        "the compilation of a JSON schema has no limits",
        (
            (
                "host/budgets/child.py",
                "    signal.setitimer(signal.ITIMER_PROF, seconds)  #",
                "    pass  #",
            ),
            ("host/budgets/child.py", "    if memory_bytes and module not in limited:\n", "    if False:\n"),
        ),
        (
            "tests/trainer/serving/test_grammars.py::"
            "test_a_costly_schema_is_refused_by_its_limits_in_a_process_that_is_replaced[a smaller prime]",
        ),
        _BUDGETS,
    ),
    Mutation(
        "a silent client keeps its connection when others need it",
        (("serving/connections.py", "            oldest.drop()\n", ""),),
        ("tests/trainer/serving/test_connections.py::test_the_connection_that_waited_longest_makes_room",),
        _BUDGETS,
    ),
    Mutation(
        "a compressed file of data may become as long as it likes",
        (("host/budgets/sizes.py", "if self._written > FREE_BYTES + MOST_GROWTH * self._read:", "if False:"),),
        ("tests/trainer/data/sources/test_decompress.py::test_a_small_file_that_becomes_gigabytes_is_cut_off",),
        _BUDGETS,
    ),
    Mutation(
        "a run whose trainers have ended waits for the other containers of their pods",
        (
            (
                "decide/next/pods.py",
                'replace(jobset, outcome="completed", finished_at=last, held_by=container)',
                "jobset",
            ),
        ),
        ("tests/operator/test_held_pods.py::test_a_run_whose_trainers_are_done_succeeds_and_releases_its_hardware",),
        _HELD,
        "operator/halcyon_operator",
    ),
    Mutation(
        "a pod that its node rejects counts as a crash",
        (("model/endings.py", "return EndCause.REJECTED", "return EndCause.FAILED"),),
        ("tests/operator/test_backoff.py::test_rejected_pods_cost_no_failure_and_the_pause_grows",),
        _FINALITY,
        "operator/halcyon_operator",
    ),
    Mutation(
        "the events of an old Job count for the new one of its name",
        (("observe/pod_events.py", 'if value_at(event, "involvedObject", "uid") == subject.uid', "if True"),),
        ("tests/operator/test_pod_events.py::test_the_end_of_the_job_before_is_no_refusal",),
        _PRESENT,
        "operator/halcyon_operator",
    ),
    Mutation(
        "a run that does not fit takes hardware although its plan is required",
        (("decide/next/next_attempt.py", "or not (plan.failed or plan.fits is False)", "or not plan.failed"),),
        ("tests/operator/test_planning.py::test_a_run_that_cannot_fit_takes_no_hardware_and_a_mended_one_begins",),
        _PLANNED,
        "operator/halcyon_operator",
    ),
    Mutation(
        "the plan of an earlier spec holds for an edited one",
        (
            (
                "decide/next/next_attempt.py",
                "status.plan is not None and status.plan.hash == plan_hash(spec)",
                "status.plan is not None",
            ),
        ),
        ("tests/operator/test_planning.py::test_a_run_that_cannot_fit_takes_no_hardware_and_a_mended_one_begins",),
        _PLANNED,
        "operator/halcyon_operator",
    ),
    Mutation(
        "a pod with another exit code stays as long as its other containers",
        (
            (
                "decide/next/pods.py",
                "delete=decision.delete + gone, events=decision.events + events, requeue",
                "events=decision.events + events, requeue",
            ),
        ),
        ("tests/operator/test_held_pods.py::test_a_pod_with_another_exit_code_is_deleted_so_that_the_job_sees_it",),
        _HELD,
        "operator/halcyon_operator",
    ),
    Mutation(
        "a program may trace its checks, and jump over them",
        (("evals/sandbox/execution.py", "if event in refused or event.startswith(prefixes):", "if False:"),),
        ("tests/trainer/evals/sandbox/test_running.py::test_a_program_cannot_claim_that_its_checks_passed",),
        _CHECKS,
    ),
    Mutation(
        "a run with wrong numbers goes on from a checkpoint that no audit has confirmed",
        (("checkpoint/rollback.py", "if entry.step <= self.audited)", "if True)"),),
        (
            "tests/trainer/checkpoint/test_rollback.py::test_after_wrong_numbers_the_newest_confirmed_checkpoint_is_the_"
            "newest_and_no_batch_is_left_out",
        ),
        _row(rows.CORRUPTION),
    ),
    Mutation(
        "an audit computes the same rows on the same device twice",
        (
            ("step/audit.py", "jnp.roll(parted, shift, axis=1)", "parted"),
            ("step/audit.py", "np.roll(by_part, -shift, axis=0)", "by_part"),
        ),
        ("tests/trainer/step/test_audit.py::test_a_device_with_wrong_products_is_named_before_the_sum",),
        _row(rows.CORRUPTION),
    ),
    Mutation(
        "a replay does not compare the states",
        (("run/replay.py", "if original.target is not None:", "if False:"),),
        ("tests/trainer/run/test_replay.py::test_a_replay_finds_the_step_after_which_one_bit_was_wrong[10]",),
        _REPLAYED,
    ),
    Mutation(
        "a restarted replay forgets what it has found",
        (("run/replay.py", "if before is not None:", "if False:"),),
        (
            "tests/trainer/run/test_replay.py::test_a_replay_that_is_preempted_goes_on_and_forgets_nothing_that_it_has_"
            "found",
        ),
        _REPLAYED,
    ),
    Mutation(
        "the budget counts only the time that a trainer reports, not that of the operator's own clock",
        (
            (
                "decide/record/spending.py",
                "if spec is None or status.topology is None:",
                "if spec is None or status.topology is None or observed.report is None:",
            ),
        ),
        ("tests/operator/test_budget.py::test_no_report_of_a_trainer_changes_what_the_run_has_used",),
        _SPENT,
        "operator/halcyon_operator",
    ),
    Mutation(
        "the watchdog of the end: a step of the end that hangs keeps the process",
        (
            (
                "run/process.py",
                "        end_within(MARGIN_SECONDS if is_late else seconds + _REST_SECONDS, cause.exit_code)\n",
                "",
            ),
        ),
        (
            "tests/trainer/run/test_failing_end.py::test_an_end_that_hangs_or_fails_keeps_its_deadline_its_report_and_its_exit_code",
        ),
        _DEADLINE,
    ),
    Mutation(
        "a link that is skipped: the history lacks its steps",
        (("checkpoint/evidence.py", "if missing and not is_whole:", "if False:"),),
        ("tests/trainer/checkpoint/test_evidence.py::test_verify_shows_the_chain",),
        _EVIDENCE,
    ),
    Mutation(
        "a file of the history that a link names may be missing",
        (("telemetry/history/checking.py", 'damages.append(f"{key} is missing")', "pass"),),
        ("tests/trainer/checkpoint/test_checking.py::test_a_file_that_a_link_names_is_missed",),
        _EVIDENCE,
    ),
    Mutation(
        "the kernels of attention's gradients leave out one tile too many",
        (
            (
                "models/parts/visible_tiles.py",
                "lowest = first[:, ::queries] // keys",
                "lowest = first[:, ::queries] // keys + 1",
            ),
        ),
        ("tests/trainer/models/test_gpu_gradients.py::test_ranges_are_exactly_the_tiles_that_a_query_sees",),
        _SKIPPED,
    ),
    *(
        Mutation(
            f"gradients of keys take the first head of a group for all of them ({gpu})",
            ((f"models/parts/{file}_gradients.py", f"head * sharing + {place}", "head * sharing"),),
            ("tests/trainer/models/test_gpu_gradients.py::test_gradients_are_those_of_the_reference",),
            _SKIPPED,
        )
        for gpu, file, place in (
            ("Hopper", "hopper", "j"),
            ("Blackwell", "blackwell", "jax.lax.rem(i, jnp.int32(sharing))"),
        )
    ),
)
