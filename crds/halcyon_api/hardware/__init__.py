"""The table of all hardware that a run can use, from ``accelerators.yaml``.

The schema, its rules, the operator, the trainer and docs/hardware.md read it.
"""

import difflib
from pathlib import Path

from pydantic import TypeAdapter

from halcyon_api.hardware.gpu import ARCHITECTURES, architecture_of, capability_of
from halcyon_api.hardware.kinds import Accelerator, NarrowType, Provisioning
from halcyon_api.yaml_text import read_document

_FOLDER = Path(__file__).parent


def _table() -> dict[str, Accelerator]:
    document = read_document((_FOLDER / "accelerators.yaml").read_text(encoding="utf-8"))
    fabrics = read_document((_FOLDER / "fabrics.yaml").read_text(encoding="utf-8"))
    rows = document["accelerators"]
    for name, row in rows.items():
        row |= {"name": name}
        if "fabric" in row:
            row["fabric"] = fabrics[row["fabric"]]
        if capability := row.get("compute_capability"):
            row["narrow"] = ARCHITECTURES[tuple(capability)].narrow
    return TypeAdapter(dict[str, Accelerator]).validate_python(rows)


TABLE = _table()
"""The rows by ``accelerator.type``."""

PROVISIONING_LABELS: dict[Provisioning, str] = {
    "spot": "cloud.google.com/gke-spot",
    "flexStart": "cloud.google.com/gke-flex-start",
    "queued": "cloud.google.com/gke-queued",
}
"""Label, and taint, with the value ``true``, of the nodes of a kind of provisioning."""

PROVISIONING_SOURCE = (
    "GKE's guides to flex-start and to flex-start with queued provisioning; constants of GKE's cluster autoscaler "
    "(`gke-flex-start` is a label and an optional taint; `reservation-project`); xpk 1.13.1 and the Cluster Toolkit's "
    "TPU examples (`gke-queued`)"
)
PROVISIONING_AS_OF = "2026-11-21"

PRICES = "Google Cloud's list price on demand in us-central1 (h100: us-east4, v4: us-central2), read 2026-11-29"
"""The source of list prices, of a GPU with its part of the machine: the SkyPilot catalog (`v8/gcp/vms.csv`; of v4 its
fetcher for Google Cloud). That of v5e is Google's page of prices; that of a100-80gb is without the local disk.
"""


_ROWS = {kind: row for row in reversed(TABLE.values()) for kind in row.device_kinds}


def row_of_device(kind: str) -> Accelerator | None:
    """The first row of a device, by JAX's name of its kind. None: the table does not have it."""
    return _ROWS.get(kind)


def narrow_types(device_kind: str, compute_capability: str = "") -> tuple[NarrowType, ...]:
    """The types with 8 bits or less in which a device multiplies matrices faster than in bfloat16.

    Args:
        device_kind: JAX's name of the kind of device.
        compute_capability: Of an NVIDIA GPU, such as ``9.0``.
    """
    capability = capability_of(compute_capability)
    known = architecture_of(capability) if capability else row_of_device(device_kind)
    return known.narrow if known else ()


def suggestion(name: str) -> str | None:
    """The accelerator type most similar to an unknown name; None if none is similar."""
    wanted = name.strip().lower().replace("_", "-").removeprefix("tpu-").removeprefix("nvidia-")
    names = {
        alias.removeprefix("tpu-").removeprefix("nvidia-"): row.name
        for row in TABLE.values()
        for alias in (*row.aliases, *row.node_labels.values(), row.machine_of(row.largest_host), row.name)
        if alias
    }
    if near := difflib.get_close_matches(wanted, names, n=1, cutoff=0.6):
        return names[near[0]]
    return next(
        (names[known] for known in sorted(names, key=len, reverse=True) if len(known) > 1 and wanted.startswith(known)),
        None,
    )
