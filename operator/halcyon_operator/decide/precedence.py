"""What `halcyon_operator.decide.attempts.next_step` asks before the table of recovery, and after the end of an attempt.

The reference shows these rows in this order, and a test makes the case of each one. The first row that matches decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from halcyon_operator.decide.steps import (
    Await,
    Create,
    DiscardConfigMap,
    Finish,
    Finished,
    HoldBack,
    Keep,
    NewAttempt,
    Rest,
    Stall,
    StayStalled,
    Stop,
    Wait,
)


@dataclass(frozen=True)
class Question:
    """A question that has its own answer.

    Attributes:
        when: The case, in a few words.
        then: What the operator does.
        steps: The types of `halcyon_operator.decide.steps` that it is one of.
    """

    when: str
    then: str
    steps: tuple[type, ...]


BEFORE = (
    Question("the run has succeeded, and `trainer.steps` was not raised since", "nothing", (Finished,)),
    Question("the JobSet has completed after the last step, and `trainer.steps` was not raised", "the run has succeeded", (Finish,)),
    Question("the JobSet has completed, and its last report or checkpoint may still come", "waits for up to 30 s", (Keep,)),
    Question("`suspend: true` while processes train and their save is not committed", "waits for the save", (Keep,)),
    Question("`suspend: true`", "deletes the JobSet, whatever the cause of its end, and rests", (Stop, Wait, Rest)),
    Question("the run is stopped, without an edit or a requested restart that may fix it", "nothing", (StayStalled,)),
    Question("there is another JobSet of the run, or the attempt's own one is being deleted", "deletes it and waits", (Stop, Wait)),
    Question("the end of the attempt is recorded, and its JobSet still exists", "deletes the JobSet", (Stop,)),
    Question("a user has suspended the JobSet itself", "waits until the user resumes it", (Keep,)),
    Question("a user has resumed it", "a new attempt", (Stop,)),
    Question("the run was stopped or its JobSet has ended, and an edit or a requested restart waits", "a new attempt", (Stop,)),
    Question("the queue has taken the attempt's quota", "a new attempt, which waits in the queue", (Stop,)),
)
"""Before the table, which decides for an attempt with a JobSet."""

AFTER_ATTEMPT = (
    Question("the root belongs to another run", "stops: `CheckpointRootTaken`", (Stall,)),
    Question("the last step is committed, and exported if the run has `export`", "the run has succeeded", (Finish,)),
    Question("`after` names a run that has not succeeded", "waits for it, or stops if it cannot succeed", (Await, Stall)),
    Question("`from` names a run without a checkpoint root that pods can read", "waits for it, or stops: `OriginUnknown`", (Await, Stall)),
    Question("objects of an earlier run of this name are left", "waits for their end, or stops: `NameTaken`", (Wait, Stall)),
    Question("the number of the next attempt is recorded, and the spec is still that of this number", "creates its objects", (Create,)),
    Question("the ConfigMap of the last attempt is left", "deletes it", (DiscardConfigMap,)),
    Question("ends without a checkpoint, or a store that cannot be reached, cause a pause", "waits", (HoldBack,)),
    Question("all numbers of attempts are used", "stops: `AttemptsExhausted`", (Stall,)),
    Question("otherwise", "records the number of a new attempt", (NewAttempt,)),
)
"""While the run has no JobSet: what follows from the table's **same**, **edited** and so on."""
