"""``spec.recovery``, ``spec.scheduling`` and ``spec.telemetry``: how the run is kept alive, placed and watched."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from halcyon_api.base import ApiModel, ObjectName, Seconds


class RecoverySpec(ApiModel):
    """What happens when something fails. Preemptions are free; failures have a budget."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=10,
        description="Failures (not preemptions) in a row without a new checkpoint after which the run stops as `Stalled`.",
    )
    grace_period_seconds: Seconds = Field(
        default=30, description="Time a pod has between the notice of its end and its end, for a last checkpoint."
    )


class SchedulingSpec(ApiModel):
    """Where and with which rank the pods are placed."""

    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    service_account_name: ObjectName | None = Field(
        default=None,
        description="ServiceAccount whose cloud identity the pods bear. Default: the namespace's `default`. No token is mounted.",
    )


class TelemetrySpec(ApiModel):
    """How the run is watched."""

    port: Annotated[int, Field(ge=1024, le=65_535)] = Field(
        default=9400, description="Port of `/metrics`, `/status` and `/healthz` in every trainer pod."
    )
    status_interval_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=5, description="How often the operator reads the trainer's progress into the run's status."
    )
