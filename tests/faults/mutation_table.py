"""The mutations: each breaks one thing on purpose, and names the tests of `make test` that must fail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tests.faults import rows

Package = Literal["trainer/halcyon", "operator/halcyon_operator", "crds/halcyon_api"]
"""The package that holds the file."""
_OPERATOR, _CONTRACT = "operator/halcyon_operator", "crds/halcyon_api"

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
_IN_PLACE = "Processes start again in their pods together, and only while the root is theirs"
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
    _IN_PLACE,
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
    package: Package
    row: str = ""


def _row(mark: object) -> str:
    return mark.mark.kwargs["row"]  # type: ignore[attr-defined]


def _mutation(
    what: str, tests: str | tuple[str, ...], *edits: tuple[str, str, str], package: Package = "trainer/halcyon"
) -> Mutation:
    return Mutation(what, edits, (tests,) if isinstance(tests, str) else tests, package)


_BY_ROW: dict[str, tuple[Mutation, ...]] = {
    _row(rows.DAMAGE): (
        _mutation(
            "the hash of a file is not checked",
            "tests/faults/test_damage.py::test_every_kind_of_damage_to_every_file_of_a_checkpoint_is_detected[file-1]",
            ("checkpoint/verify.py", "if _sha256(data) != file.sha256:", "if False:"),
        ),
    ),
    _row(rows.IN_PLACE): (
        _mutation(
            "the bytes of a snapshot in memory are not checked",
            "tests/trainer/checkpoint/memory/test_memory.py::test_changed_bytes_are_found",
            ("checkpoint/memory/folder.py", "if file_of(file.path, (data,)) == file:", "if True:"),
        ),
    ),
    _row(rows.LOST_HEAD): (
        _mutation(
            "the classes of the contract are built at their first use, from the local variables of the caller",
            "tests/faults/test_lost_head.py::test_a_fresh_process_has_every_class_of_the_contract_complete",
            (
                "base.py",
                "        alias_generator=to_camel,",
                "        alias_generator=to_camel,\n        defer_build=True,",
            ),
            ("base.py", "if not cls.__pydantic_complete__:", "if False:"),
            package=_CONTRACT,
        ),
        _mutation(
            "a lost HEAD is rebuilt, and nobody is told",
            "tests/faults/test_lost_head.py::test_a_training_goes_on_from_its_newest_checkpoint_and_says_why_head_was_rebuilt[garbage]",
            ("run/beginning.py", "if head_loss is not None:", "if False:"),
        ),
    ),
    _row(rows.TWO_WRITERS): (
        _mutation(
            "the fence is skipped: a writer that lost the root continues from the present HEAD",
            "tests/faults/test_two_writers.py::test_a_writer_continued_in_mid_save_after_it_was_replaced_changes_nothing[file-25]",
            ("checkpoint/head.py", "if (head.epoch, head.writer) != (epoch, writer):", "if False:"),
        ),
    ),
    _row(rows.KILLS): (
        _mutation(
            "HEAD is changed before COMMIT is written",
            "tests/faults/test_kills.py::test_the_engine_killed_before_each_write_of_a_commit[file]",
            ("checkpoint/commit.py", ", (documents.COMMIT_KEY, encode_commit(data, about.epoch))):", ",):"),
            (
                "checkpoint/commit.py",
                "    return entry\n\n\nclass Undecided",
                '    store.create(f"{prefix}{documents.COMMIT_KEY}", encode_commit(data, about.epoch))\n    return entry\n\n\nclass Undecided',
            ),
        ),
    ),
    _row(rows.STORE): (
        _mutation(
            "a COMMIT that was written, but whose answer was lost, counts as another writer's",
            "tests/faults/test_store.py::test_one_fault_of_every_request_is_retried[lose]",
            ("host/storage/store.py", "return self.read(key).data == data", "return False"),
        ),
    ),
    _row(rows.ROOT): (
        _mutation(
            "a failed save is not reported",
            "tests/faults/test_root.py::test_an_exceeded_quota_costs_checkpoints_and_not_the_training",
            (
                "checkpoint/checkpointer.py",
                "                self._callbacks.on_failure(self.last_error)",
                "                pass",
            ),
        ),
        _mutation(
            "the newest checkpoint is the one with the latest time",
            "tests/faults/test_root.py::test_no_decision_depends_on_a_clock_that_is_set_back_an_hour",
            (
                "checkpoint/head.py",
                "key=lambda one: (one.step, one.epoch), reverse=True",
                "key=lambda one: one.time, reverse=True",
            ),
        ),
    ),
    _row(rows.TOPOLOGY): (
        _mutation(
            "a chunk is given to only one of the regions that need it",
            "tests/faults/test_topology.py::test_from_mesh_to_mesh_all_bits_stay[file]",
            ("checkpoint/reader.py", "for key in self.needed[indices]:", "for key in self.needed[indices][:1]:"),
        ),
    ),
    _ISOLATION: (
        _mutation(
            "a reconcile waits for the store without a limit",
            "tests/operator/test_isolation.py::test_runs_on_a_silent_store_delay_no_other_tenants_run[100]",
            (
                "observe/head_reads.py",
                "        return HeadPending()\n",
                "        return await self._heads.read(spec)\n",
            ),
            package=_OPERATOR,
        ),
        _mutation(
            "a namespace with many runs is served first",
            "tests/operator/test_work_queue.py::test_groups_take_turns",
            (
                "run/work_queue.py",
                "self._ready[group] = keys  # after all other groups",
                "self._ready[group] = keys; self._ready.move_to_end(group, last=False)",
            ),
            package=_OPERATOR,
        ),
        _mutation(
            "a HEAD of any size is read",
            "tests/operator/test_s3.py::test_a_large_head_is_decoded_in_a_thread_and_a_larger_one_is_refused",
            ("observe/checkpoints.py", 'if result.meta["size"] > MAX_HEAD_BYTES:', "if False:"),
            package=_OPERATOR,
        ),
    ),
    _FINALITY: (
        _mutation(
            "a root that is unusable for a moment stops the run permanently",
            "tests/operator/test_backoff.py::test_a_store_that_refuses_is_retried_with_growing_pauses_and_without_end",
            (
                "decide/next/recovery.py",
                'Rule(STORE_ENDS, "same", "the store may work again later: after a pause that grows each time"),',
                'Rule(STORE_ENDS, "stop", "broken", reason="CheckpointRootUnusable"),',
            ),
            package=_OPERATOR,
        ),
        _mutation(
            "the pause before the next attempt does not grow",
            "tests/operator/test_backoff.py::test_evictions_without_a_checkpoint_are_free_at_first_and_then_delayed",
            ("decide/next/backoff.py", "FIRST_PAUSE_SECONDS * 2 ** min(ends - 1, 16)", "FIRST_PAUSE_SECONDS"),
            package=_OPERATOR,
        ),
        _mutation(
            "any edit starts a stopped run again",
            "tests/operator/test_attempts.py::test_a_stopped_run_starts_again_only_after_an_edit_that_may_fix_it",
            (
                "decide/record/edits.py",
                "retry = newer and any(change.starts_again for change in found)",
                "retry = newer",
            ),
            package=_OPERATOR,
        ),
        _mutation(
            "a suspended run's pods are deleted before it has saved",
            "tests/operator/test_suspension.py::test_a_suspended_run_is_asked_for_a_checkpoint_and_stopped_when_it_is_committed",
            ("decide/next/attempts.py", "at_work and trains(status) and status.edit is not None and", "False and"),
            package=_OPERATOR,
        ),
        _mutation(
            "a JobSet that an administrator suspends is replaced",
            "tests/operator/test_bad_input.py::test_a_jobset_suspended_by_hand_stays_suspended_and_a_new_attempt_follows_its_resumption",
            (
                "decide/next/attempts.py",
                "    return steps.Keep(jobset) if jobset and by_hand else None",
                '    return steps.Stop(EndCause.PREEMPTED, "broken") if jobset and by_hand else None',
            ),
            package=_OPERATOR,
        ),
        _mutation(
            "a source that does not answer counts as a mistake in the document",
            "tests/trainer/data/sources/test_outages.py::test_an_outage_during_a_read_is_no_mistake_of_the_document",
            (
                "data/sources/failures.py",
                "return Unreachable(message)",
                "return Unreadable(message)",
            ),
        ),
        _mutation(
            "a checkpoint root that does not answer at the start counts as a crash",
            "tests/trainer/checkpoint/test_opening.py::test_a_store_that_cannot_be_reached_is_no_failure_of_the_run",
            (
                "host/storage/failures.py",
                "if failure.code in _LASTING or failure.is_outage else",
                "if failure.code in _LASTING else",
            ),
        ),
        _mutation(
            "a pod that its node rejects counts as a crash",
            "tests/operator/test_backoff.py::test_rejected_pods_cost_no_failure_and_the_pause_grows",
            ("model/endings.py", "return EndCause.REJECTED", "return EndCause.FAILED"),
            package=_OPERATOR,
        ),
    ),
    _TRUST: (
        _mutation(
            "a pod with the run's labels is the run's own",
            "tests/operator/test_trust.py::test_a_foreign_pod_with_the_runs_labels_does_not_belong_to_the_run",
            ("model/ownership.py", "return made and bool(pod.uid) and", "return bool(pod.uid) or"),
            package=_OPERATOR,
        ),
        _mutation(
            "a foreign JobSet uses up attempts",
            "tests/operator/test_trust.py::test_a_foreign_jobset_with_a_high_attempt_uses_up_no_number",
            (
                "decide/next/next_attempt.py",
                "return max(status.attempt, status.root_attempt, highest_own(observed))",
                "return max(status.attempt, status.root_attempt, *(jobset.attempt for jobset in observed.jobsets), 0)",
            ),
            package=_OPERATOR,
        ),
    ),
    _LOSS: (
        _mutation(
            "the loss mask of conversations is lost",
            "tests/trainer/data/test_conversation_rows.py::test_every_row_counts_and_only_the_assistant_counts_at_any_sequence_length",
            ("data/formats/chat.py", "encoded.within(rendered.counted)", "encoded.within([(0, 10**9)])"),
        ),
        _mutation(
            "a long conversation keeps its beginning, even if no token of it counts",
            "tests/trainer/data/test_conversation_rows.py::test_every_row_counts_and_only_the_assistant_counts_at_any_sequence_length",
            ("data/layout/whole.py", "lengths[:, 0]), late, 0)", "lengths[:, 0]), 0, 0)"),
            ("data/layout/whole.py", "some = np.flatnonzero(counts)", "some = np.flatnonzero(kept.sum(axis=1))"),
        ),
        _mutation(
            "the trained model is its own reference",
            "tests/trainer/step/objectives/test_preference.py::test_dpo_compares_each_answer_with_the_begin_weights_on_any_mesh",
            (
                "step/objectives/objective.py",
                "return jax.lax.stop_gradient(without_adapter(model) if frozen is None else frozen)",
                "return jax.lax.stop_gradient(model)",
            ),
        ),
    ),
    _ENDS: (
        _mutation(
            "an export names no token that ends the assistant's turn",
            "tests/trainer/weights/test_chat_template.py::test_an_export_names_every_token_at_which_an_answer_ends[chat]",
            ("weights/companions.py", "*(() if turn is None else (turn.id,))", "*()"),
        ),
        _mutation(
            "an exported tokenizer puts nothing before a text",
            "tests/trainer/weights/test_chat_template.py::test_an_exported_tokenizer_puts_before_a_text_what_stands_there_here",
            (
                "weights/companions.py",
                "        written[TOKENIZER_KEY] = with_prefix(definition.content, tokenizer)\n",
                "        written[TOKENIZER_KEY] = definition.content\n",
            ),
        ),
    ),
    _REFERENCE: (
        _mutation(
            "the rows that pad the vocabulary take part in the softmax",
            "tests/trainer/weights/test_first_step.py::test_the_first_step_and_the_evaluation_are_those_of_transformers[gpt2-50257]",
            ("models/softmax.py", "        if self.tokens is None:", "        if True:"),
        ),
        _mutation(
            "tokens of padding count in the losses of routers",
            "tests/trainer/weights/test_first_step.py::test_the_first_step_and_the_evaluation_are_those_of_transformers[mixtral-259]",
            (
                "models/parts/moe.py",
                "hax.ones(tokens) if weights is None else weights.rearrange(tokens)",
                "hax.ones(tokens)",
            ),
        ),
    ),
    _BUDGETS: (
        _mutation(
            "the compilation of a JSON schema has no limits",
            "tests/trainer/serving/test_grammars.py::test_a_costly_schema_is_refused_by_its_limits_in_a_process_that_is_replaced[a smaller prime]",
            ("host/limits/child.py", "    signal.setitimer(signal.ITIMER_PROF, seconds)  #", "    pass  #"),
            ("host/limits/child.py", "    if memory_bytes and module not in limited:\n", "    if False:\n"),
        ),
        _mutation(
            "a silent client keeps its connection when others need it",
            "tests/trainer/serving/test_connections.py::test_the_connection_that_waited_longest_makes_room",
            ("serving/connections.py", "            oldest.drop()\n", ""),
        ),
        _mutation(
            "a compressed file of data may become as long as it likes",
            "tests/trainer/data/sources/test_decompress.py::test_a_small_file_that_becomes_gigabytes_is_cut_off",
            ("host/limits/sizes.py", "if self._written > FREE_BYTES + MOST_GROWTH * self._read:", "if False:"),
        ),
    ),
    _HELD: (
        _mutation(
            "a run whose trainers have ended waits for the other containers of their pods",
            "tests/operator/test_held_pods.py::test_a_run_whose_trainers_are_done_succeeds_and_releases_its_hardware",
            (
                "decide/next/pods.py",
                'replace(jobset, outcome="completed", finished_at=last, held_by=container)',
                "jobset",
            ),
            package=_OPERATOR,
        ),
        _mutation(
            "a pod with another exit code stays as long as its other containers",
            "tests/operator/test_held_pods.py::test_a_pod_with_another_exit_code_is_deleted_so_that_the_job_sees_it",
            (
                "decide/next/pods.py",
                "delete=decision.delete + gone, events=decision.events + events, requeue",
                "events=decision.events + events, requeue",
            ),
            package=_OPERATOR,
        ),
    ),
    _PRESENT: (
        _mutation(
            "the events of an old Job count for the new one of its name",
            "tests/operator/test_pod_events.py::test_the_end_of_the_job_before_is_no_refusal",
            ("observe/pod_events.py", 'if value_at(event, "involvedObject", "uid") == subject.uid', "if True"),
            package=_OPERATOR,
        ),
    ),
    _PLANNED: (
        _mutation(
            "a run that does not fit takes hardware although its plan is required",
            "tests/operator/test_planning.py::test_a_run_that_cannot_fit_takes_no_hardware_and_a_mended_one_begins",
            ("decide/next/next_attempt.py", "or not (plan.failed or plan.fits is False)", "or not plan.failed"),
            package=_OPERATOR,
        ),
        _mutation(
            "the plan of an earlier spec holds for an edited one",
            "tests/operator/test_planning.py::test_a_run_that_cannot_fit_takes_no_hardware_and_a_mended_one_begins",
            (
                "decide/next/next_attempt.py",
                "status.plan and status.plan.hash == plan_hash(spec)",
                "status.plan",
            ),
            package=_OPERATOR,
        ),
    ),
    _CHECKS: (
        _mutation(
            "a program may trace its checks, and jump over them",
            "tests/trainer/evals/sandbox/test_running.py::test_a_program_cannot_claim_that_its_checks_passed",
            ("evals/sandbox/execution.py", "if event in refused or event.startswith(prefixes):", "if False:"),
        ),
    ),
    _row(rows.CORRUPTION): (
        _mutation(
            "a run with wrong numbers goes on from a checkpoint that no audit has confirmed",
            "tests/trainer/checkpoint/test_rollback.py::test_after_wrong_numbers_the_newest_confirmed_checkpoint_is_the_newest_and_no_batch_is_left_out",
            ("checkpoint/rollback.py", "if entry.step <= self.audited)", "if True)"),
        ),
        _mutation(
            "a process whose devices compute other bits trains",
            "tests/trainer/run/test_own_work.py::test_a_process_with_other_bits_ends_the_run_before_its_first_step",
            ("run/trust.py", "if finding is not None:", "if False:"),
        ),
        _mutation(
            "an audit computes the same rows on the same device twice",
            "tests/trainer/step/test_audit.py::test_a_device_with_wrong_products_is_named_before_the_sum",
            ("step/audit.py", "jnp.roll(parted, shift, axis=1)", "parted"),
            ("step/audit.py", "np.roll(by_part, -shift, axis=0)", "by_part"),
        ),
    ),
    _REPLAYED: (
        _mutation(
            "a replay does not compare the states",
            "tests/trainer/run/test_replay.py::test_a_replay_finds_the_step_after_which_one_bit_was_wrong[10]",
            ("run/replay.py", "if original.target is not None:", "if False:"),
        ),
        _mutation(
            "a restarted replay forgets what it has found",
            "tests/trainer/run/test_replay.py::test_a_replay_that_is_preempted_goes_on_and_forgets_nothing_that_it_has_found",
            ("run/replay.py", "if before is not None:", "if False:"),
        ),
    ),
    _SPENT: (
        _mutation(
            "the budget counts only the time that a trainer reports, not that of the operator's own clock",
            "tests/operator/test_budget.py::test_no_report_of_a_trainer_changes_what_the_run_has_used",
            (
                "decide/record/spending.py",
                "if spec is None or status.topology is None:",
                "if spec is None or status.topology is None or observed.report is None:",
            ),
            package=_OPERATOR,
        ),
    ),
    _DEADLINE: (
        _mutation(
            "the watchdog of the end: a step of the end that hangs keeps the process",
            "tests/trainer/run/test_failing_end.py::test_an_end_that_hangs_or_fails_keeps_its_deadline_its_report_and_its_exit_code",
            (
                "run/process.py",
                "        end_within(MARGIN_SECONDS if is_late else seconds + _REST_SECONDS, cause.exit_code)\n",
                "",
            ),
        ),
    ),
    _EVIDENCE: (
        _mutation(
            "a link that is skipped: the history lacks its steps",
            "tests/trainer/checkpoint/test_evidence.py::test_verify_shows_the_chain",
            ("checkpoint/evidence.py", "if missing and not is_whole:", "if False:"),
        ),
        _mutation(
            "a file of the history that a link names may be missing",
            "tests/trainer/checkpoint/test_checking.py::test_a_file_that_a_link_names_is_missed",
            ("telemetry/history/checking.py", 'damages.append(f"{key} is missing")', "pass"),
        ),
    ),
    _IN_PLACE: (
        _mutation(
            "a process that starts in place takes back a root that another writer has taken",
            "tests/trainer/checkpoint/test_head.py::test_a_start_in_place_does_not_take_the_root_from_pods_that_replaced_its_own[earlier2-True]",
            ("checkpoint/head.py", " and head.writer not in {*earlier, writer}", " and False"),
        ),
        _mutation(
            "on hosts without a cluster a start in place makes a new attempt, and takes the root from a newer run",
            "tests/trainer/checkpoint/test_head.py::test_outside_a_cluster_a_start_in_place_keeps_the_attempt_or_is_fenced",
            ("checkpoint/head.py", "epoch = head.epoch if earlier else Epoch(", "epoch = Epoch("),
        ),
        _mutation(
            "a pod that was replaced comes back, and takes the place of the new one",
            "tests/trainer/host/agent/test_rendezvous.py::test_a_pod_that_was_replaced_is_turned_away_when_it_comes_back",
            ("host/agent/leader.py", "if since is not None and (", "if False and ("),
        ),
        _mutation(
            "new pods begin a new lineage in the process group of pods that were all lost",
            "tests/trainer/checkpoint/test_head.py::test_the_first_start_of_pods_whose_predecessors_were_all_lost_leaves_the_root",
            ("checkpoint/head.py", "if other_pods and not earlier:", "if False:"),
        ),
        _mutation(
            "the pod of a broken device comes back to its node",
            "tests/operator/test_guards.py::test_pods_keep_off_the_guards_of_their_run_where_one_pod_can_leave",
            ("objects/pod_template.py", '"podAntiAffinity": rule', '"podAffinity": rule'),
            package=_OPERATOR,
        ),
        _mutation(
            "a pod leaves its node before the guard is there",
            "tests/operator/test_guards.py::test_the_pod_of_a_process_that_crashed_twice_waits_for_the_guard_of_its_node",
            (
                "decide/next/guards.py",
                "guard.jobset.name == name and _on(node, guard.pods)",
                "guard.jobset.name == name",
            ),
            package=_OPERATOR,
        ),
        _mutation(
            "a process that crashes again and again moves its pod each time",
            "tests/trainer/host/agent/test_rendezvous.py::test_the_pod_of_a_process_that_alone_fails_twice_leaves_its_node_once[before0-now0-True]",
            ("host/agent/rendezvous.py", 'end |= {"podLost": True} if self._left else {}', "end |= {}"),
        ),
        _mutation(
            "the processes join before the last old one has ended",
            "tests/trainer/host/agent/test_rendezvous.py::test_nobody_joins_before_every_supervisor_is_there",
            ("host/agent/rendezvous.py", "if self.running or len(self._waiting) < self.processes:", "if self.running:"),
        ),
        _mutation(
            "the Job of a pod is made again although its end is for the operator to judge",
            "tests/operator/test_in_place.py::test_no_other_job_is_deleted[reserved exit code]",
            (
                "decide/next/pods.py",
                "return not (again or failed or fails_job(ending) or",
                "return not (again or failed or",
            ),
            package=_OPERATOR,
        ),
    ),
    _SKIPPED: (
        _mutation(
            "the kernels of attention's gradients leave out one tile too many",
            "tests/trainer/models/test_gpu_gradients.py::test_ranges_are_exactly_the_tiles_that_a_query_sees",
            (
                "models/parts/visible_tiles.py",
                "lowest = first[:, ::queries] // keys",
                "lowest = first[:, ::queries] // keys + 1",
            ),
        ),
        *(
            _mutation(
                f"gradients of keys take the first head of a group for all of them ({gpu})",
                "tests/trainer/models/test_gpu_gradients.py::test_gradients_are_those_of_the_reference",
                (f"models/parts/{file}_gradients.py", f"head * sharing + {place}", "head * sharing"),
            )
            for (gpu, file, place) in (
                ("Hopper", "hopper", "j"),
                ("Blackwell", "blackwell", "jax.lax.rem(i, jnp.int32(sharing))"),
            )
        ),
    ),
}
MUTATIONS = tuple(replace(mutation, row=row) for row, mutations in _BY_ROW.items() for mutation in mutations)
