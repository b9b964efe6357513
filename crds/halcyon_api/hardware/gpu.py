"""What NVIDIA GPUs of one compute capability have in common; ``architectures.yaml`` has the facts."""

from pathlib import Path

from pydantic import TypeAdapter

from halcyon_api.hardware.kinds import Architecture
from halcyon_api.yaml_text import read_document

LIBRARIES = "/usr/local/nvidia/lib64"


def capability_of(text: str) -> tuple[int, int] | None:
    """The numbers of a compute capability as JAX writes it, such as ``9.0``. None: it is none."""
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _architectures() -> dict[tuple[int, int], Architecture]:
    document = read_document(Path(__file__).with_name("architectures.yaml").read_text(encoding="utf-8"))
    known = TypeAdapter(dict[str, Architecture]).validate_python(document)
    return {capability: row for text, row in known.items() if (capability := capability_of(text))}


ARCHITECTURES = _architectures()
"""By the compute capability from which on they are so, oldest first."""


def architecture_of(compute_capability: tuple[int, int]) -> Architecture | None:
    """The newest architecture that is not newer than a compute capability; None: older than all."""
    return next((row for least, row in reversed(ARCHITECTURES.items()) if least <= compute_capability), None)
