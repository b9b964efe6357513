"""The networks of GPUs outside GKE: what ``accelerator.fabric`` adds to the pods of a run.

``fabrics.yaml`` beside this file has the built-in ones. The operator's owner writes further ones in the same form into
the chart (`trainerPods.fabrics`), so a new cluster needs no code. A run only names one: resources, claims, variables
and annotations come from the fabric, and rights only from the owner (`trainerPods.security`).
"""

import json
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, StringConstraints, TypeAdapter

from halcyon_api.base import ApiModel, ObjectName, Quantity
from halcyon_api.spec.scheduling import LabelValue, TolerationSpec
from halcyon_api.yaml_text import read_document

FabricName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
Need = Annotated[str, StringConstraints(pattern=r"^(privileged|hostNetwork|[A-Z][A-Z_]{1,40})$")]


class ClusterFabric(ApiModel):
    """One network of GPUs, in a cluster that is not GKE's."""

    types: tuple[str, ...] = ()
    """Accelerator types whose machines have it. Empty: any GPU."""
    gigabits_per_second: NonNegativeInt = 0
    """Of one host, in each direction. 0: not known."""
    node_selector: dict[str, LabelValue] = Field(default_factory=dict)
    """Labels of the nodes, in place of those of the accelerator type."""
    tolerations: tuple[TolerationSpec, ...] = ()
    """Taints of the nodes, beside that of the GPUs' resource."""
    resources: dict[str, Quantity] = Field(default_factory=dict)
    """Resources of each pod. `cpu` and `memory` are for runs that set none."""
    resource_claims: tuple[ObjectName, ...] = ()
    """ResourceClaimTemplates in the run's namespace: each pod gets a claim of each."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Environment of the trainer."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Of each pod."""
    slice_label: str = ""
    """Label of nodes: the hosts of a slice are nodes with one value of it, which no other slice has."""
    needs: tuple[Need, ...] = ()
    """Rights without which the network cannot be used: a capability, `privileged` or `hostNetwork`."""


class KnownFabric(ApiModel):
    """A built-in network."""

    machine: str
    source: str
    read: str
    """Date on which the source was read."""
    fabric: ClusterFabric


@cache
def built_in_fabrics() -> dict[str, KnownFabric]:
    """The built-in networks by name."""
    text = Path(__file__).with_name("fabrics.yaml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, KnownFabric]).validate_json(json.dumps(read_document(text)))
