"""``spec.env``: variables of the environment of the trainer's processes.

Which names a run may set is for the operator's owner to say. Three bounds hold everywhere: names that Halcyon or the owner sets are not a
run's, a name that loads code must be listed by its whole name, and a secret comes from a Secret and never stands in the document.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from halcyon_api.base import ApiModel, ObjectName, Rule, shows

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
"""Ends of names by which a library reads code or a whole configuration from a file."""


class SecretKeyRef(ApiModel):
    """A key of a Secret in the run's own namespace. The operator never reads it; the kubelet hands it to the pods."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: Annotated[str, StringConstraints(max_length=253, pattern=r"^[-._A-Za-z0-9]+$")] = Field(description="Key in it.")


class VariableSource(ApiModel):
    """Where the value of a variable comes from."""

    secret_key_ref: SecretKeyRef = Field(description="A key of a Secret in the run's namespace.")


class VariableSpec(ApiModel):
    """A variable of the environment of the trainer's processes."""

    name: Annotated[str, StringConstraints(max_length=128, pattern=_NAME)] = Field(
        description="Its name, which must be one that the operator's owner allows (the chart's `trainerPods.variables`)."
    )
    value: Annotated[str, StringConstraints(max_length=4096)] | None = Field(default=None, description="Its value.")
    value_from: VariableSource | None = Field(default=None, description="Where its value comes from instead.")

    rules: ClassVar = (
        Rule(
            "has(self.value) != has(self.valueFrom)",
            lambda self: (self.value is None) != (self.value_from is None),
            "give value or valueFrom, and not both",
            details=shows("name"),
        ),
        Rule(
            f"!(self.name in {list(RESERVED)!r}) && !{list(RESERVED_BEGINNINGS)!r}.exists(begin, self.name.startsWith(begin))",
            lambda self: not is_reserved(self.name),
            "this name is Halcyon's own, or the operator's owner's; leave it out",
            ".name",
            shows("name"),
        ),
        Rule(
            f"!has(self.value) || !{list(SECRET_ENDINGS)!r}.exists(end, self.name.endsWith(end))",
            lambda self: self.value is None or not self.name.endswith(SECRET_ENDINGS),
            "a name that ends in _TOKEN, _KEY, _SECRET or _PASSWORD takes its value from a Secret; use valueFrom.secretKeyRef",
            ".value",
            shows("name"),
        ),
    )


def each_once(env: list[VariableSpec]) -> list[VariableSpec]:
    """Variables of which none is set twice.

    Raises:
        ValueError: One is.
    """
    names = [variable.name for variable in env]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} is set twice; leave one out")
    return env


def is_reserved(name: str) -> bool:
    """Whether no run may set a variable."""
    return name in RESERVED or name.startswith(RESERVED_BEGINNINGS)


def is_allowed_pattern(pattern: str) -> bool:
    """Whether an owner may allow a name, or with ``*`` at its end all names that begin so."""
    return re.fullmatch(r"[A-Z][A-Z0-9_]{0,127}\*?", pattern) is not None and not is_reserved(pattern.removesuffix("*"))


def is_allowed(name: str, patterns: Sequence[str]) -> bool:
    """Whether a run may set a variable by what the owner allows."""
    loads_code = name.endswith(CODE_ENDINGS)
    return any(name == pattern or (not loads_code and pattern.endswith("*") and name.startswith(pattern[:-1])) for pattern in patterns)
