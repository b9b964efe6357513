"""Save and restore times at scale, from formulas: 8B, 70B and 405B parameters on 8 to 4,096 hosts, and the first
bottleneck.

Every assumption is an option. Figures that were not measured here are published ones, which
`docs/design/checkpoints.md` names.

    python tests/bench/checkpoint_scale.py [--chunk-mebibytes 32] [--store-gigabytes 2000] [--writes-a-second 1000]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

BYTES_A_PARAMETER = 12
"""Float32 parameters and AdamW's two moments."""
ARRAYS = 36
"""Arrays of a stacked Llama: twelve matrices and norms, three times."""
MANIFEST_BYTES_A_FILE = 140


@dataclass(frozen=True)
class Place:
    """The speed of hosts and store, in gigabytes and requests a second."""

    copy: float
    hash: float
    write: float
    read: float
    store: float
    writes: float
    chunk_bytes: float


@dataclass(frozen=True)
class Times:
    """Seconds, and the bottleneck of each."""

    copy: float
    save: float
    save_bound: str
    restore: float
    restore_bound: str
    files: float
    manifest_megabytes: float


def times(parameters: float, hosts: int, devices_a_host: int, place: Place, *, state_hosts: int | None = None) -> Times:
    """Times of a save and a restore, to which all hosts contribute.

    The state is divided over all devices, or over those of `state_hosts` hosts, of which the others hold copies: each
    file is written once, and read once for all that need it.
    """
    holders = min(hosts, state_hosts or hosts)
    gigabytes = parameters * BYTES_A_PARAMETER / 1e9
    shard_bytes = gigabytes * 1e9 / (holders * devices_a_host * ARRAYS)
    files = holders * devices_a_host * ARRAYS * max(1.0, shard_bytes / place.chunk_bytes)
    share = gigabytes / hosts
    save = {
        "hash": share / place.hash,
        "host's network": share / place.write,
        "store": gigabytes / place.store,
        # each file is written and its end is read; then listings of a thousand keys each
        "requests": files / place.writes,
        "listing": files / 1000 * 0.1,
    }
    restore = {
        "host's network": share / place.read,
        "store": gigabytes / place.store,
        "hash": share / place.hash,
        "requests": files / (5 * place.writes),
    }
    save_bound, restore_bound = max(save, key=lambda name: save[name]), max(restore, key=lambda name: restore[name])
    return Times(
        share / place.copy,
        save[save_bound],
        save_bound,
        restore[restore_bound],
        restore_bound,
        files,
        files * MANIFEST_BYTES_A_FILE / 1e6,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunk-mebibytes", type=float, default=32)
    parser.add_argument("--devices", type=int, default=4, help="devices of a host")
    parser.add_argument("--copy-gigabytes", type=float, default=32, help="device to host, a second and host")
    parser.add_argument(
        "--hash-gigabytes", type=float, default=13.6, help="SHA-256 by eight threads, a second and host"
    )
    parser.add_argument("--write-gigabytes", type=float, default=3.3, help="to the store, a second and host")
    parser.add_argument("--read-gigabytes", type=float, default=5.1, help="from the store, a second and host")
    parser.add_argument("--store-gigabytes", type=float, default=2000, help="total throughput of the store, a second")
    parser.add_argument(
        "--writes-a-second", type=float, default=1000, help="objects a second that the store accepts at first"
    )
    options = parser.parse_args()
    place = Place(
        options.copy_gigabytes,
        options.hash_gigabytes,
        options.write_gigabytes,
        options.read_gigabytes,
        options.store_gigabytes,
        options.writes_a_second,
        options.chunk_mebibytes * 2**20,
    )
    table = Table(
        "model",
        "hosts",
        "blocked s",
        "save s",
        "bound by",
        "restore s",
        "bound by",
        "files",
        "manifest MB",
        box=SIMPLE_HEAD,
    )
    for name, parameters in (("8B", 8e9), ("70B", 70e9), ("405B", 405e9)):
        for hosts in (8, 64, 512, 4096):
            one = times(parameters, hosts, options.devices, place)
            table.add_row(
                name,
                str(hosts),
                f"{one.copy:.2f}",
                f"{one.save:.1f}",
                one.save_bound,
                f"{one.restore:.1f}",
                one.restore_bound,
                f"{one.files:,.0f}",
                f"{one.manifest_megabytes:,.1f}",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
