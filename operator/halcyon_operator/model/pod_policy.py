"""The owner's settings for the pods of runs, from the chart's values. Pure.

The author of a run cannot change any of them: neither privilege, nor volumes of the node, nor a proxy. By default pods have the restricted
security profile. The owner can set more rights by accelerator: TPU runtimes and fast GPU networks lock memory or open devices, and some
clusters assign the user ids themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from halcyon_api.base import ApiModel, ObjectName
from halcyon_api.hardware import TABLE, Accelerator
from halcyon_api.hardware.kinds import Family
from halcyon_api.spec.operations import LabelValue, check_pod_label
from halcyon_api.spec.variables import is_allowed_pattern

USER_ID = 65532
DEFAULT = "default"
FREE_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NCCL_*", "HF_TOKEN")
"""Variables that runs may set by default: settings of the compiler and of the communication between devices, and the token for the Hugging
Face hub. None of them loads code into the trainer's image."""

Capability = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z_]{1,40}$", max_length=42)]
Address = Annotated[str, StringConstraints(pattern=r"^(https?://[A-Za-z0-9.:\[\]-]+/?)?$", max_length=512)]
Directory = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._-]+)*$", max_length=512)]


class InvalidPolicy(ValueError):
    """The owner's settings are invalid. The message names the setting."""


class PodSecurity(ApiModel):
    """The security of pods on one kind of accelerator."""

    privileged: bool = False
    capabilities: tuple[Capability, ...] = ()
    run_as_user: Annotated[int, Field(ge=0, le=2**31 - 1)] | Literal["namespace"] = USER_ID
    host_network: Literal["never", "multislice", "always"] = "never"

    @model_validator(mode="after")
    def _capabilities_have_effect(self) -> Self:
        if any(name.startswith("CAP_") for name in self.capabilities):
            raise ValueError("capabilities: write a capability without CAP_, such as IPC_LOCK")
        if self.capabilities and self.run_as_user != 0:
            raise ValueError("capabilities: Kubernetes gives added capabilities to root only; set runAsUser: 0 too")
        return self


class CaBundle(ApiModel):
    """Trusted certificates, in a ConfigMap of the run's namespace."""

    config_map: ObjectName | Literal[""] = ""
    key: Annotated[str, StringConstraints(pattern=r"^[-._A-Za-z0-9]+$", max_length=253)] = "ca.crt"


class Proxy(ApiModel):
    """The proxy for requests that leave the cluster."""

    https: Address = ""
    http: Address = ""
    exclude: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:*/_-]+$", max_length=253)], ...] = ()


class Cache(ApiModel):
    """Where compiled programs are kept after the pod has ended."""

    claim: ObjectName | Literal[""] = ""
    host_path: Directory = ""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.claim and self.host_path:
            raise ValueError("claim and hostPath cannot be used together; leave one out")
        if ".." in self.host_path.split("/"):
            raise ValueError("hostPath must not have `..` in it; write the directory itself")
        return self


class PodPolicy(ApiModel):
    """All settings of the owner for the pods of runs."""

    security: dict[str, PodSecurity] = Field(default_factory=dict)
    variables: tuple[str, ...] = FREE_VARIABLES
    annotations: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, LabelValue] = Field(default_factory=dict)
    run_labels: tuple[str, ...] = ()
    """Keys of labels that runs may set themselves. A label may select a pod for a Service or a NetworkPolicy, so there is no default."""
    image_pull_secrets: tuple[ObjectName, ...] = ()
    ca_bundle: CaBundle = CaBundle()
    proxy: Proxy = Proxy()
    cache: Cache = Cache()

    @field_validator("security")
    @classmethod
    def _known_accelerators(cls, security: dict[str, PodSecurity]) -> dict[str, PodSecurity]:
        for name in security:
            if name not in (DEFAULT, *get_args(Family), *TABLE):
                raise ValueError(f"{name[:80]!r} is no accelerator; name a type of docs/hardware.md, a family (tpu, gpu, cpu) or {DEFAULT}")
        return security

    @field_validator("labels", "run_labels")
    @classmethod
    def _label_keys(cls, labels: Iterable[str]) -> Iterable[str]:
        for key in labels:
            check_pod_label(key)
        return labels

    @field_validator("variables")
    @classmethod
    def _patterns(cls, variables: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in variables:
            if not is_allowed_pattern(pattern):
                raise ValueError(f"{pattern[:80]!r} cannot be allowed; write a name of capital letters, or its beginning and `*`")
        return variables

    def security_of(self, row: Accelerator) -> PodSecurity:
        """The security of pods on an accelerator: the setting for its type, else for its family, else the default."""
        return next((self.security[name] for name in (row.name, row.family, DEFAULT) if name in self.security), PodSecurity())


def parse_policy(text: str) -> PodPolicy:
    """The owner's settings from JSON; an empty text means no settings.

    Raises:
        InvalidPolicy: The settings are not valid.
    """
    try:
        return PodPolicy.model_validate_json(text or "{}")
    except ValidationError as error:
        fault = error.errors()[0]
        loc = tuple(map(str, fault["loc"]))
        where = ".".join(loc if loc[:1] in (("caBundle",), ("proxy",)) else ("trainerPods", *loc))
        raise InvalidPolicy(f"{where}: {fault['msg'].removeprefix('Value error, ')}; correct the chart's values") from None
