"""``status.restart``: what became of a restart that was asked for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from halcyon_api.maintenance import SaveRequestStatus

RestartOutcome = Literal["waiting", "restarted", "passedOver"]


class RestartStatus(SaveRequestStatus):
    """A restart that was asked for, the checkpoint that is made for it, and what became of it. Fields not known here are passed over."""

    attempt: int = Field(ge=0, description="The attempt that was there when it was first seen; the one after it is the restart.")
    outcome: RestartOutcome = Field(
        description=(
            "`waiting`: for a checkpoint, or for the pods to be gone; `restarted`: every pod is of a later time than the request; "
            "`passedOver`: the run was suspended, had succeeded or had not begun, so there was no pod to replace."
        )
    )

    @property
    def waits(self) -> bool:
        """Whether it is still to be done."""
        return self.outcome == "waiting"
