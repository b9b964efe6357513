"""The operator's settings: the values of the chart that its process reads, with their names and their nesting. Pure.

The chart passes them as one JSON document; `values.yaml` describes each value, and tests/chart/test_settings.py
compares names, types and defaults. The author of a run can change none of them: neither privilege, nor volumes of the
node, nor a proxy. By default pods have the restricted security profile. The owner can set more rights by accelerator:
TPU runtimes and fast GPU networks lock memory or open devices, and some clusters assign the user ids themselves.

The owner also lists the S3 endpoints that a run may use, with their scheme, and no other endpoint is used. A request
sends the id of the access key, the session token and a signature to the server at the endpoint. So neither the operator
nor a trainer may send a request to an address that only the author of a run chose. A root without an endpoint is in the
cloud's own store, at an address that no field of a run can change.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeInt,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from halcyon_api.base import ApiModel, ObjectName
from halcyon_api.hardware import TABLE
from halcyon_api.hardware.kinds import Family
from halcyon_api.spec.accelerator import AcceleratorSpec
from halcyon_api.spec.fabric import ClusterFabric, built_in_fabrics
from halcyon_api.spec.scheduling import LabelValue, check_pod_label
from halcyon_api.spec.variables import is_allowed_pattern

VARIABLE = "HALCYON_SETTINGS"
"""Environment variable with the settings."""
USER_ID = 65532
DEFAULT = "default"
_KINDS = (DEFAULT, *get_args(Family), *TABLE)
FREE_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NCCL_*", "HF_TOKEN")
"""Variables that runs may set by default: settings of the compiler and of the communication between devices, and the
token for the Hugging Face hub. None of them loads code into the trainer's image."""
NO_MEMORY = "none"
"""Used instead of an amount: the pods request no memory."""
Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Capability = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z_]{1,40}$")]
Endpoint = Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+$")]
Address = Annotated[str, StringConstraints(pattern=r"^(https?://[A-Za-z0-9.:\[\]-]+/?)?$", max_length=512)]
Directory = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")]
Memory = Annotated[str, StringConstraints(pattern=rf"^({NO_MEMORY}|[1-9][0-9]*(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?)$")]
_PORTS = {"http": 80, "https": 443}


class InvalidSettings(ValueError):
    """The settings are invalid. The message names the value of the chart."""


class PodSecurity(ApiModel):
    """The security of pods on one kind of accelerator."""

    privileged: bool = False
    capabilities: tuple[Capability, ...] = ()
    run_as_user: Annotated[int, Field(ge=0, le=2**31 - 1)] | Literal["namespace"] = USER_ID
    host_network: Literal["never", "multislice", "always"] = "never"

    def gives(self, need: str) -> bool:
        """Whether pods have a right that a fabric needs."""
        if need == "hostNetwork":
            return self.host_network == "always"
        return self.privileged or need in self.capabilities

    @model_validator(mode="after")
    def _capabilities_have_effect(self) -> Self:
        if any(name.startswith("CAP_") for name in self.capabilities):
            raise ValueError("capabilities: write a capability without CAP_, such as IPC_LOCK")
        if self.capabilities and self.run_as_user != 0:
            raise ValueError("capabilities: Kubernetes gives added capabilities to root only; set runAsUser: 0 too")
        return self


class Cache(ApiModel):
    """Where compiled programs are kept after the pod has ended."""

    claim: ObjectName | Literal[""] = ""
    host_path: Directory = ""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.claim and self.host_path:
            raise ValueError("claim and hostPath cannot be used together; leave one out")
        return self


class TrainerPods(ApiModel):
    """The owner's settings for the pods of runs."""

    fabrics: dict[str, ClusterFabric] = Field(default_factory=dict)
    security: dict[str, PodSecurity] = Field(default_factory=dict)
    variables: tuple[str, ...] = FREE_VARIABLES
    annotations: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, LabelValue] = Field(default_factory=dict)
    run_labels: tuple[str, ...] = ()
    image_pull_secrets: tuple[ObjectName, ...] = ()
    cache: Cache = Cache()

    @field_validator("fabrics")
    @classmethod
    def _own_names(cls, fabrics: dict[str, ClusterFabric]) -> dict[str, ClusterFabric]:
        for name, fabric in fabrics.items():
            if name in _KINDS:
                raise ValueError(f"{name} is a kind of accelerator; give the fabric another name")
            if unknown := set(fabric.types) - set(TABLE):
                raise ValueError(f"{name}: there is no accelerator type {min(unknown)[:80]!r}; see docs/hardware.md")
        return fabrics

    @field_validator("security")
    @classmethod
    def _known_accelerators(cls, security: dict[str, PodSecurity], info: ValidationInfo) -> dict[str, PodSecurity]:
        for name in security:
            if name not in (*_KINDS, *built_in_fabrics(), *info.data.get("fabrics", ())):
                raise ValueError(
                    f"{name[:80]!r} is no accelerator; name a type of docs/hardware.md, a family (tpu, gpu, cpu), a "
                    f"fabric or {DEFAULT}"
                )
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
                raise ValueError(
                    f"{pattern[:80]!r} cannot be allowed; write a name of capital letters, or its beginning and `*`"
                )
        return variables

    def security_of(self, accelerator: AcceleratorSpec) -> PodSecurity:
        """The security of pods: the setting for their fabric, else for their accelerator's type, else for its family,
        else the default."""
        names = (accelerator.fabric, accelerator.type, accelerator.row.family, DEFAULT)
        return next((self.security[name] for name in names if name in self.security), PodSecurity())

    def all_fabrics(self) -> dict[str, ClusterFabric]:
        """The built-in fabrics and the owner's, which replace built-in ones of the same name."""
        return {name: known.fabric for name, known in built_in_fabrics().items()} | self.fabrics


class CaBundle(ApiModel):
    """Trusted certificates, in a ConfigMap of the run's namespace."""

    config_map: ObjectName | Literal[""] = ""
    key: Annotated[str, StringConstraints(pattern=r"^[-._A-Za-z0-9]+$", max_length=253)] = "ca.crt"


class Proxy(ApiModel):
    """The proxy for requests that leave the cluster."""

    https: Address = ""
    http: Address = ""
    exclude: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:*/_-]+$", max_length=253)], ...] = ()


class _Log(ApiModel):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class _MetricsPort(ApiModel):
    port: Annotated[int, Field(ge=1024, le=65535)] = 9401


class _ProbePriority(ApiModel):
    name: str = ""
    """Empty: the cluster's default."""


class _Probes(ApiModel):
    priority_class: _ProbePriority = _ProbePriority()


class _S3(ApiModel):
    endpoints: tuple[Endpoint, ...] = ()


class _ObjectStore(ApiModel):
    s3: _S3 = _S3()


class _GpuDirect(ApiModel):
    allowed: bool = False


class _Kueue(ApiModel):
    enabled: bool = False
    priority_boost: bool = False
    multi_kueue: bool = False


PlanMode = Literal["require", "warn", "off"]


class Planning(ApiModel):
    """The pods that plan runs."""

    mode: PlanMode = "warn"
    """For runs without `spec.plan`."""
    seconds: Annotated[int, Field(ge=30, le=86_400)] = 600
    cpu: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*m?$")] = "2"
    memory: Memory = "8Gi"


class _StuckPods(ApiModel):
    after_seconds: NonNegativeInt = 300
    force_delete: bool = False


class Lease(ApiModel):
    """The Lease that selects the leader."""

    namespace: Namespace | Literal[""] = ""
    """Empty: there is only one operator, and no Lease."""
    name: str = "halcyon-operator"


class Settings(ApiModel):
    """Settings of one operator. The first four are made by the chart from other values and from its release."""

    trainer_image: Annotated[str, Field(min_length=1)]
    """Image of runs that set none."""
    namespaces: tuple[Namespace, ...] = ()
    """Namespaces to serve; empty: all."""
    defaults_namespace: Namespace | Literal[""] = ""
    """Namespace of the TrainingRunDefaults for all namespaces; empty: there are none."""
    lease: Lease = Lease()

    ca_bundle: CaBundle = CaBundle()
    cluster_domain: ObjectName = "cluster.local"
    gpu_direct: _GpuDirect = _GpuDirect()
    kueue: _Kueue = _Kueue()
    log: _Log = _Log()
    metrics: _MetricsPort = _MetricsPort()
    object_store: _ObjectStore = _ObjectStore()
    planning: Planning = Planning()
    pod_memory: dict[str, Memory] = Field(default_factory=dict)
    probes: _Probes = _Probes()
    proxy: Proxy = Proxy()
    stuck_pods: _StuckPods = _StuckPods()
    trainer_pods: TrainerPods = TrainerPods()
    watch_nodes: bool = False
    workers: Annotated[int, Field(ge=1, le=256)] = 8

    @field_validator("pod_memory")
    @classmethod
    def _known_types(cls, amounts: dict[str, str]) -> dict[str, str]:
        for name in amounts:
            if name not in TABLE:
                raise ValueError(f"there is no accelerator type {name[:80]!r}; choose one of {', '.join(TABLE)}")
        return amounts


def parse_settings(text: str) -> Settings:
    """The settings from JSON.

    Raises:
        InvalidSettings: The text is not JSON, or a setting is not valid.
    """
    try:
        return Settings.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or VARIABLE
        raise InvalidSettings(f"{where}: {fault['msg'].removeprefix('Value error, ')}") from None


def normal(endpoint: str) -> str:
    """An endpoint in normal form: lower case, without the default port of the scheme, without a final slash."""
    try:
        parts = urlsplit(endpoint.strip().rstrip("/").lower())
        port = parts.port
    except ValueError:
        return endpoint
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    if parts.scheme not in _PORTS or not host or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return endpoint
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, _PORTS[parts.scheme]) else "")


def endpoint_refusal(endpoint: str | None, listed: Iterable[str]) -> str | None:
    """Why a run may not use an endpoint, as one sentence for the user; None if it is listed."""
    if endpoint is None or normal(endpoint) in map(normal, listed):
        return None
    return (
        f"spec.checkpoint.endpoint: this installation sends no credentials to {endpoint}; take an endpoint that it "
        "lists, or have the operator's owner add this one to objectStore.s3.endpoints in the chart"
    )
