"""``status.queue``: the queue of Kueue that the run is in, since when it waits there, and how it lost its place."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import ApiModel, Timestamp

Text = Annotated[str, StringConstraints(max_length=1024)]
Word = Annotated[str, StringConstraints(max_length=316)]


class QueueModel(ApiModel):
    """Survives up- and downgrades of the operator: fields not known here are passed over."""

    model_config = ConfigDict(extra="ignore")


class QueueEviction(QueueModel):
    """The queue took its quota back from a world of processes."""

    attempt: int = Field(ge=0, description="Attempt of the world.")
    restart: int = Field(ge=0, description="JobSet restart inside the attempt.")
    reason: Word = Field(description="Kueue's reason, such as `Preempted`, `PodsReadyTimeout` or `ClusterQueueStopped`.")
    message: Text = Field(default="", description="Kueue's sentence about it.")
    time: Timestamp = Field(description="When.")


class QueueStatus(QueueModel):
    """The queue that the present attempt is in."""

    name: Word = Field(description="LocalQueue.")
    waiting_since: Timestamp | None = Field(default=None, description="Since when the run waits for admission; empty once it is admitted.")
    eviction: QueueEviction | None = Field(default=None, description="The last time the queue took its quota back.")
