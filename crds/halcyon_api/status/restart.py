"""``status.restart``: a requested restart and its outcome."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from halcyon_api.status.maintenance import SaveRequestStatus

RestartOutcome = Literal["waiting", "restarted", "passedOver"]


class RestartStatus(SaveRequestStatus):
    """A requested restart, the checkpoint that is made for it, and its outcome. Unknown fields are ignored."""

    attempt: int = Field(ge=0, description="Attempt when the request was first seen; the next attempt is the restart.")
    outcome: RestartOutcome = Field(
        description=(
            "`waiting`: waits for a checkpoint, or for the pods to end; `restarted`: every pod is newer than the "
            "request; "
            "`passedOver`: the run was suspended, had succeeded or had not begun, so there was no pod to replace."
        )
    )

    @property
    def waits(self) -> bool:
        """Whether the restart is still to be done."""
        return self.outcome == "waiting"
