"""``spec.env``: environment variables of the trainer's processes.

The operator's owner lists the names that a run may set. Three rules hold always: a run cannot set a name that Halcyon
or the owner sets; a variable that loads code must be listed by its whole name; a secret value comes from a Secret and
is never part of the document.
"""

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import StringConstraints

from halcyon_api.base import ApiModel, ObjectName, Rule, RuledModel, optional, shows

MAX_VARIABLES = 64
_NAME = r"^[A-Z][A-Z0-9_]*$"

RESERVED_BEGINNINGS = (
    "AWS_",
    "GOOGLE_",
    "HALCYON_",
    "JAX_COMPILATION_CACHE",
    "JAX_COORDINATOR",
    "JAX_NUM_PROCESSES",
    "JAX_PLATFORM",
    "JAX_PROCESS",
    "JOB_",
    "KUBERNETES_",
    "LD_",
    "MEGASCALE_",
    "PYTHON",
    "TPU_PROCESS_",
    "TPU_WORKER_",
)
RESERVED = (
    "CURL_CA_BUNDLE",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PATH",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TENSORSTORE_CA_BUNDLE",
    "TENSORSTORE_CA_PATH",
    "TMPDIR",
    "XDG_CACHE_HOME",
)
SECRET_ENDINGS = ("_TOKEN", "_KEY", "_SECRET", "_PASSWORD")
CODE_ENDINGS = ("_PLUGIN", "_PLUGINS", "_LIB", "_LIBRARY", "_LIB_DIR", "_CONF_FILE", "_PRELOAD")
"""Suffixes of variables with which a library loads code or a whole configuration from a file."""


class SecretKeyRef(ApiModel):
    """A key of a Secret in the run's namespace. The operator never reads it; the kubelet gives it to the pods."""

    name: ObjectName
    """Name of the Secret."""
    key: Annotated[str, StringConstraints(max_length=253, pattern=r"^[-._A-Za-z0-9]+$")]
    """Key in the Secret."""


class VariableSource(ApiModel):
    """The source of a variable's value."""

    secret_key_ref: SecretKeyRef
    """A key of a Secret in the run's namespace."""


class VariableSpec(RuledModel):
    """An environment variable of the trainer's processes."""

    name: Annotated[str, StringConstraints(max_length=128, pattern=_NAME)]
    """Name, one that the chart's `trainerPods.variables` allows."""
    value: str | None = optional(max_length=4096)
    """Value."""
    value_from: VariableSource | None = None
    """Source of the value, instead of `value`."""

    rules: ClassVar = (
        Rule(
            "has(self.value) != has(self.valueFrom)",
            "give value or valueFrom, and not both",
            details=shows("name"),
        ),
        Rule(
            f"!(self.name in {list(RESERVED)!r}) && !{list(RESERVED_BEGINNINGS)!r}.exists(begin, "
            "self.name.startsWith(begin))",
            "this name is reserved for Halcyon or the operator's owner; leave it out",
            ".name",
            shows("name"),
        ),
        Rule(
            f"!has(self.value) || !{list(SECRET_ENDINGS)!r}.exists(end, self.name.endsWith(end))",
            "a name that ends in _TOKEN, _KEY, _SECRET or _PASSWORD takes its value from a Secret; use "
            "valueFrom.secretKeyRef",
            ".value",
            shows("name"),
        ),
    )


def each_once(env: list[VariableSpec]) -> list[VariableSpec]:
    """The variables, unchanged.

    Raises:
        ValueError: A variable is set twice.
    """
    names = [variable.name for variable in env]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} is set twice; leave one out")
    return env


def is_reserved(name: str) -> bool:
    """Whether the name is reserved, so that no run may set it."""
    return name in RESERVED or name.startswith(RESERVED_BEGINNINGS)


def is_allowed_pattern(pattern: str) -> bool:
    """Whether the operator's owner may allow a name, or with a final ``*`` all names with that prefix."""
    return re.fullmatch(r"[A-Z][A-Z0-9_]{0,127}\*?", pattern) is not None and not is_reserved(pattern.removesuffix("*"))


def is_allowed(name: str, patterns: Sequence[str]) -> bool:
    """Whether the patterns that the owner allows let a run set a variable."""
    loads_code = name.endswith(CODE_ENDINGS)
    return any(
        name == pattern or (not loads_code and pattern.endswith("*") and name.startswith(pattern[:-1]))
        for pattern in patterns
    )
