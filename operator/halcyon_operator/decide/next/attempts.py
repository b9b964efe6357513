"""The next step of a run's attempts: keep one, stop one, mint (number) one, create one, or stop the run. Pure.

Three tables choose it, each from top to bottom: the cases of `BEFORE`, then the decision table by the cause of the last
end if the attempt has a JobSet (`by_cause`), else the cases of `next_attempt`. The reference page shows the same
tables.

The basic rule: at any moment at most one attempt may have pods, and its number is recorded before its JobSet exists. So
a new attempt takes five reconciles. Each of them may be the first one of a restarted operator:

1. Stop: the end of the old attempt is written with its cause, its hash is replaced by a mark that matches no spec, and
  its JobSet is
   deleted in the foreground.
2. Wait: until that JobSet and every pod of the run are deleted, and then the old ConfigMap.
3. Mint: the new number is written into the status, if the run still has the observed resource version.
4. Create: ConfigMap and JobSet with the recorded number, if the number never had a JobSet (`status.jobSetUid` is empty)
  and no epoch of it
   has written to the root.
5. Keep: the JobSet is seen, its uid is written."""

from halcyon_api import names
from halcyon_api.ends import EndCause, EndReason
from halcyon_operator.decide.next import steps
from halcyon_operator.decide.next.by_cause import by_cause, renewal
from halcyon_operator.decide.next.guards import unguarded
from halcyon_operator.decide.next.next_attempt import AFTER_ATTEMPT, new_attempt, remains_of_attempt
from halcyon_operator.decide.next.steps import Case, Situation, first_step
from halcyon_operator.decide.record.completion import completion
from halcyon_operator.decide.record.edits import saved
from halcyon_operator.decide.record.placement import trains
from halcyon_operator.decide.record.queue import was_evicted
from halcyon_operator.decide.record.spec_hash import RETIRED
from halcyon_operator.decide.tell.queue import evicted_sentence
from halcyon_operator.model.history import ended_cause, entry_of, group_of, last_message
from halcyon_operator.model.ownership import own_jobsets
from halcyon_operator.model.views import JobSetView, Observed


def current_jobset(observed: Observed) -> JobSetView | None:
    """The JobSet of the recorded attempt, if it exists and belongs to the run."""
    status = observed.run.status
    return next(
        (
            jobset
            for jobset in own_jobsets(observed)
            if jobset.name == names.jobset_name(observed.run.name, status.attempt)
            and status.job_set_uid in (None, jobset.uid)
        ),
        None,
    )


def next_step(situation: Situation) -> steps.Step:
    """The next step."""
    if (step := first_step(BEFORE, situation)) is not None:
        return step
    if situation.jobset is not None:
        return by_cause(situation, situation.jobset)
    return first_step(AFTER_ATTEMPT, situation) or new_attempt(situation)


def _completed(situation: Situation) -> steps.Finish | None:
    return steps.Finish(situation.jobset) if _completion(situation) == "completed" else None


def _completed_unseen(situation: Situation) -> steps.Keep | None:
    jobset = situation.jobset
    return steps.Keep(jobset) if jobset is not None and _completion(situation) == "unseen" else None


def _completion(situation: Situation) -> str:
    jobset = situation.jobset
    if jobset is None or jobset.outcome != "completed" or situation.lengthened:
        return ""
    return completion(situation.observed, situation.status, situation.spec, jobset)


def _saves_first(situation: Situation) -> steps.Keep | None:
    """A save may take longer than the grace period of a deleted pod."""
    status, jobset = situation.status, situation.jobset
    if not situation.spec.suspend or jobset is None:
        return None
    at_work = (
        jobset.outcome == "running"
        and not jobset.deleting
        and not jobset.suspended
        and status.attempt_spec_hash != RETIRED
    )
    waits = at_work and trains(status) and status.edit is not None and not saved(situation.observed, status)
    return steps.Keep(jobset) if waits else None


def _suspend(situation: Situation) -> steps.Step | None:
    if not situation.spec.suspend:
        return None
    return remains_of_attempt(situation.observed, EndCause.SUSPENDED, "suspended") or steps.Rest()


def _superseded(situation: Situation) -> steps.Step | None:
    """Two operators that fence each other's processes would both go on."""
    status, message = situation.status, "another cluster goes on with the run"
    if not situation.observed.run.workload or not 0 < status.attempt < status.root_attempt:
        return None
    remains = remains_of_attempt(situation.observed, EndCause.FENCED, message)
    return remains or steps.Stall(EndReason(EndCause.FENCED.end.reason), message)


def _left_over(situation: Situation) -> steps.Step | None:
    jobset = situation.jobset
    if jobset and not jobset.deleting and all(other is jobset for other in own_jobsets(situation.observed)):
        return None
    message = f"JobSet {situation.status.job_set_name or ''} was deleted"
    return remains_of_attempt(situation.observed, EndCause.JOB_SET_DELETED, message)


def _ended(situation: Situation) -> steps.Stop | None:
    status = situation.status
    recorded = situation.jobset is not None and status.attempt_spec_hash == RETIRED and not situation.released
    return steps.Stop(ended_cause(status), last_message(status)) if recorded else None


def _suspended_by_hand(situation: Situation) -> steps.Keep | None:
    jobset = situation.jobset
    by_hand = jobset and jobset.suspended and not jobset.queue and jobset.outcome == "running"
    return steps.Keep(jobset) if jobset and by_hand else None


def _resumed_by_hand(situation: Situation) -> steps.Stop | None:
    """The end is on record since the suspension (`record/follow.py`): new processes would have the epoch of the old."""
    jobset = situation.jobset
    entry = jobset and entry_of(situation.status, group_of(situation.status, jobset))
    if jobset is None or jobset.outcome != "running" or jobset.suspended or entry is None or not entry.cause:
        return None
    return steps.Stop(EndCause.PREEMPTED, f"{entry.message or entry.cause}, and resumed")


def _renewed(situation: Situation) -> steps.Stop | None:
    jobset = situation.jobset
    due = jobset is not None and (situation.released or (situation.renewed and jobset.outcome != "running"))
    return renewal(situation) if due else None


def _evicted_by_queue(situation: Situation) -> steps.Stop | None:
    """If the JobSet were resumed, new processes would have the epoch of processes that may still run."""
    jobset, queue = situation.jobset, situation.status.queue
    if jobset is None or queue is None or not jobset.suspended or jobset.outcome != "running":
        return None
    evicted = was_evicted(situation.observed, situation.status, jobset)
    return steps.Stop(EndCause.QUEUE_EVICTED, evicted_sentence(queue)) if evicted else None


BEFORE: tuple[Case, ...] = (
    Case(
        "the run has succeeded, and `trainer.steps` was not raised since",
        "nothing",
        lambda one: steps.Finished() if one.status.holds("Succeeded") and not one.lengthened else None,
    ),
    Case(
        "the JobSet has completed after the last step, and `trainer.steps` was not raised",
        "the run has succeeded",
        _completed,
    ),
    Case(
        "the JobSet has completed, and its last report or checkpoint may still come",
        "waits for up to 30 s",
        _completed_unseen,
    ),
    Case(
        "`suspend: true`, or a `budget` that is used up, while processes train and their save is not committed",
        "waits for the save",
        _saves_first,
    ),
    Case(
        "`suspend: true`, or a `budget` that is used up",
        "deletes the JobSet, whatever the cause of its end, and rests",
        _suspend,
    ),
    Case("MultiKueue made the run, and a later attempt has the root", "stops the run", _superseded),
    Case(
        "the run is stopped, without an edit or a requested restart that may fix it",
        "nothing",
        lambda one: steps.StayStalled() if one.stopped and not one.released else None,
    ),
    Case(
        "there is another JobSet of the run, or the attempt's own one is being deleted",
        "deletes it and waits",
        _left_over,
    ),
    Case("the end of the attempt is recorded, and its JobSet still exists", "deletes the JobSet", _ended),
    Case("a user has suspended the JobSet itself", "waits until the user resumes it", _suspended_by_hand),
    Case("a user has resumed it", "a new attempt", _resumed_by_hand),
    Case(
        "the run was stopped or its JobSet has ended, and an edit or a requested restart waits",
        "a new attempt",
        _renewed,
    ),
    Case("the queue has taken the attempt's quota", "a new attempt, which waits in the queue", _evicted_by_queue),
    Case("a pod is to leave its node alone, and the node has had no guard for 30 s", "a new attempt", unguarded),
)
"""What no cause changes."""
