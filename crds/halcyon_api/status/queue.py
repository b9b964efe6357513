"""``status.queue``: the Kueue queue of the run, how long it has waited there, and the last eviction."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import ApiModel, Timestamp

Text = Annotated[str, StringConstraints(max_length=1024)]
Word = Annotated[str, StringConstraints(max_length=316)]


class QueueModel(ApiModel):
    """Ignores unknown fields, so that it survives upgrades and downgrades of the operator."""

    model_config = ConfigDict(extra="ignore")


class QueueEviction(QueueModel):
    """The queue took its quota back from a process group."""

    attempt: int = Field(ge=0, description="Attempt of the process group.")
    restart: int = Field(ge=0, description="JobSet restart inside the attempt.")
    reason: Word = Field(
        description="Kueue's reason, such as `Preempted`, `PodsReadyTimeout` or `ClusterQueueStopped`."
    )
    message: Text = Field(default="", description="Kueue's message.")
    time: Timestamp = Field(description="Time of the eviction.")


class QueueStatus(QueueModel):
    """The queue of the present attempt."""

    name: Word = Field(description="LocalQueue.")
    waiting_since: Timestamp | None = Field(
        default=None, description="Since when the run waits for admission; absent once admitted."
    )
    eviction: QueueEviction | None = Field(default=None, description="The last time the queue took its quota back.")
