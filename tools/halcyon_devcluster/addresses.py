"""The addresses of one cluster, all inside one /16 block. Pure.

```
host ── hly-1a2b3c4d  10.B.255.1/30 ═══ veth ═══ 10.B.255.2/30  eth0 ── node's network namespace
                                                                        ├─ pods      10.B.0.0/17   (ptp, one /24 in use)
route on the host: 10.B.0.0/16 via 10.B.255.2                           └─ services  10.B.128.0/20 (kube-proxy)
```

One route makes pods and services reachable from the host. The block overlaps no route of the host. A cluster keeps its
block until it is taken down, because its certificates contain the addresses.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from halcyon_devcluster.errors import DevclusterError

_POOL = tuple(IPv4Network(f"10.{second}.0.0/16") for second in range(100, 116))
API_PORT = 6443
DNS_PORT = 1053
CLUSTER_DOMAIN = "cluster.local"


@dataclass(frozen=True)
class Addresses:
    """The addresses of a node and its cluster in the cluster's /16 block.

    Attributes:
        name: Name of the node, and of the cluster for its first node.
        block: The block.
        number: Number of the node.
    """

    name: str
    block: IPv4Network
    number: int = 0

    @property
    def host_link(self) -> str:
        """Name of the host's end of the veth pair; at most 15 characters, derived from the cluster's name."""
        return f"hly-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    @property
    def host(self) -> IPv4Address:
        """The host as the node sees it."""
        return self.block.broadcast_address - 254

    @property
    def node(self) -> IPv4Address:
        """The node as the host sees it; every component listens in the node's namespace."""
        return self.host + 1

    @property
    def pods(self) -> IPv4Network:
        """Addresses of pods."""
        return next(self.block.subnets(new_prefix=17))

    @property
    def node_pods(self) -> IPv4Network:
        """The part of `pods` that the node assigns to its pods."""
        return next(itertools.islice(self.pods.subnets(new_prefix=24), self.number, None))

    @property
    def services(self) -> IPv4Network:
        """Addresses of services."""
        return IPv4Network(f"{self.block.network_address + 128 * 256}/20")

    @property
    def api_service(self) -> IPv4Address:
        """The `kubernetes` service."""
        return self.services.network_address + 1

    @property
    def dns_service(self) -> IPv4Address:
        """The `kube-dns` service."""
        return self.services.network_address + 10

    @property
    def api_url(self) -> str:
        """The API server as the host and the components reach it."""
        return f"https://{self.node}:{API_PORT}"


def parse_routes(document: str) -> list[IPv4Network]:
    """Return the destinations in the output of `ip -json route`, without the default route. Pure."""
    destinations = (route.get("dst", "default") for route in json.loads(document or "[]"))
    return [IPv4Network(destination, strict=False) for destination in destinations if destination != "default"]


def pick_block(name: str, routed: Iterable[IPv4Network]) -> IPv4Network:
    """Pick a /16 block of the pool that overlaps none of the `routed` networks; the first candidate depends on `name`.

    Raises:
        DevclusterError: every block of the pool overlaps.
    """
    taken = list(routed)
    first = 0 if name == "halcyon" else 1 + hashlib.sha256(name.encode()).digest()[0] % (len(_POOL) - 1)
    for block in _POOL[first:] + _POOL[:first]:
        if not any(block.overlaps(network) for network in taken):
            return block
    raise DevclusterError(
        f"The host has routes into all of {_POOL[0]} to {_POOL[-1]}: take a cluster down, or remove a route."
    )
