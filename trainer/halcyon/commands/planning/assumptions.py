"""What a plan must assume: the shares of the peak speeds that programs reach, the speed of the store, how often
hardware stops, and prices. The peak speeds themselves are facts of the hardware, unless others are given.

`halcyon plan --assume NAME=VALUE` gives another value to each.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from halcyon.host.errors import BadConfiguration
from halcyon.step.hlo.work import Rates, Shares
from halcyon_api.spec.accelerator import Provisioning

_MAY_BE_0 = ("stops", "price", "restart", "crashes", "restart-in-place", "uncertainty")


def _assumed(value: float | None, meaning: str) -> Any:
    return field(default=value, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Assumptions:
    """The values. Each has its meaning, its unit and its source beside it."""

    device_flops: float | None = _assumed(
        None, "peak rate of a device, in operations a second. Default: the hardware's (docs/hardware.md)"
    )
    device_memory: float | None = _assumed(
        None, "bytes in a second that the memory of a device reads or writes. Default: the hardware's"
    )
    device_links: float | None = _assumed(
        None, "bytes in a second that a device sends to its neighbours. Default: the hardware's"
    )
    device_network: float | None = _assumed(
        None, "bytes in a second that a device sends to other slices, or hosts of GPUs. Default: the hardware's"
    )
    products: float = _assumed(
        Shares.products,
        "share of the peak rate that large matrix products reach (measured on an H100, docs/performance.md)",
    )
    narrow: float = _assumed(
        Shares.narrow, "share of their peak rate that large products in 8 bits reach (measured on an H100)"
    )
    exact: float = _assumed(
        0.40,
        "the same for float8 whose sums have 32 bits, on compute capability 9 (from one step on an H100; "
        "narrowProducts.fastAccumulation)",
    )
    kernels: float = _assumed(
        Shares.kernels, "share of the peak rate that kernels of attention and experts reach (measured on an H100)"
    )
    memory: float = _assumed(Shares.memory, "share of the memory's bandwidth that programs reach (measured on an H100)")
    links: float = _assumed(Shares.links, "share of the links' bandwidth that collectives reach")
    uncertainty: float = _assumed(0.25, "share by which the time of a step may differ, in both directions")
    store: float = _assumed(1e9, "bytes in a second between a host and the store of checkpoints")
    host_copy: float = _assumed(Shares.host_copy, "bytes in a second between a device and the memory of its host")
    snapshots: float = _assumed(
        8.8e9, "bytes in a second of a host that snapshots in memory hash and send to another host (docs/scale.md)"
    )
    stops: float | None = _assumed(
        None,
        "stops of a host in a day. Default: 0.1 for spot, else 0.0042, which is 466 interruptions of 2,048 hosts in 54 "
        "days (Llama 3, 2024, section 3.3.4)",
    )
    restart: float = _assumed(300.0, "seconds from a stop to the restore of a checkpoint on other hardware")
    crashes: float = _assumed(
        0.0018,
        "stops of a host in a day after which it goes on: of those above the software's and half of the GPUs' "
        "(docs/scale.md)",
    )
    restart_in_place: float = _assumed(
        36.0, "seconds from such a stop to the restore in the same pod, with recovery.inPlace (docs/scale.md)"
    )
    price: float | None = _assumed(None, "money for an hour of a chip, with the run's provisioning")

    def rates(self, known: Rates | None) -> Rates | None:
        """The speed of a device. None: not known.

        Args:
            known: That of the hardware. None: not known.
        """
        given = {"flops": self.device_flops, "memory": self.device_memory, "links": self.device_links}
        values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if known is not None:
            between = {} if known.network is None or self.device_network is None else {"network": self.device_network}
            return replace(known, **values, **between)
        return Rates(**values) if len(values) == len(given) else None

    def shares(self, *, exact: bool = False) -> Shares:
        """What programs reach of the peak speeds.

        Args:
            exact: Whether sums of float8 have 32 bits, where that takes time.
        """
        narrow = self.exact if exact else self.narrow
        return Shares(self.products, self.kernels, self.memory, self.links, self.host_copy, narrow)

    def stops_of_host(self, provisioning: Provisioning) -> float:
        """Stops of one host in a day."""
        return (0.1 if provisioning == "spot" else 0.0042) if self.stops is None else self.stops

    def mean_restart(self, provisioning: Provisioning, *, in_place: bool) -> float:
        """Mean seconds from a stop to the restore of a checkpoint.

        Args:
            provisioning: How the run's hardware is provisioned.
            in_place: ``recovery.inPlace``.
        """
        stops = self.stops_of_host(provisioning)
        here = min(1.0, self.crashes / stops) if in_place and stops else 0.0
        return self.restart + here * (self.restart_in_place - self.restart)


def meanings() -> dict[str, str]:
    """The meaning of each assumption, by its name on the command line."""
    return {_word(one.name): one.metadata["meaning"] for one in fields(Assumptions)}


def with_values(given: Iterable[str]) -> Assumptions:
    """The assumptions with other values, such as ``price=3.2``.

    Raises:
        BadConfiguration: A text is no name and number.
    """
    values: dict[str, float] = {}
    names = {_word(one.name): one.name for one in fields(Assumptions)}
    for text in given:
        name, _, value = text.partition("=")
        if name not in names:
            raise BadConfiguration(f"--assume {text}: there is no assumption {name}; there are {', '.join(names)}")
        try:
            number = float(value)
        except ValueError:
            raise BadConfiguration(f"--assume {text}: {value or 'nothing'} is no number; write {name}=NUMBER") from None
        if not 0 <= number < float("inf") or (number == 0 and name not in _MAY_BE_0):
            raise BadConfiguration(f"--assume {text}: {name} must be a number above 0")
        values[names[name]] = number
    return replace(Assumptions(), **values)


def _word(name: str) -> str:
    return name.replace("_", "-")
