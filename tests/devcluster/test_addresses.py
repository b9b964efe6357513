"""Every address of a cluster is in its own block, and a block never overlaps a network that the host already
reaches.
"""

from ipaddress import IPv4Network

import pytest

from halcyon_devcluster import DevclusterError
from halcyon_devcluster.addresses import Addresses, parse_routes, pick_block


def test_pods_services_and_cable_are_disjoint_parts_of_the_block():
    addresses = Addresses("halcyon", IPv4Network("10.100.0.0/16"))
    cable = IPv4Network(f"{addresses.host}/30", strict=False)
    parts = [addresses.pods, addresses.services, cable]
    assert all(part.subnet_of(addresses.block) for part in parts)
    assert not any(one.overlaps(other) for one in parts for other in parts if one is not other)
    assert addresses.node_pods.subnet_of(addresses.pods)
    assert addresses.node in cable
    assert addresses.api_service in addresses.services
    assert addresses.dns_service in addresses.services
    assert addresses.api_url == "https://10.100.255.2:6443"


def test_link_names_fit_the_kernel_and_differ():
    block = IPv4Network("10.100.0.0/16")
    names = [Addresses(name, block).host_link for name in ("a", "b", "a-cluster-with-20-chs")]
    assert len(set(names)) == 3
    assert all(len(name) <= 15 for name in names)


def test_a_block_avoids_every_route_of_the_host():
    routed = [IPv4Network("10.100.0.0/24"), IPv4Network("10.101.255.0/30"), IPv4Network("192.168.0.0/16")]
    block = pick_block("halcyon", routed)
    assert not any(block.overlaps(network) for network in routed)


def test_the_default_cluster_has_the_first_block():
    assert pick_block("halcyon", []) == IPv4Network("10.100.0.0/16")
    assert pick_block("other", []) != IPv4Network("10.100.0.0/16")


def test_a_missing_free_block_is_reported():
    with pytest.raises(DevclusterError, match="take a cluster down"):
        pick_block("halcyon", [IPv4Network("10.0.0.0/8")])


def test_routes_are_read_without_the_default_one():
    document = '[{"dst":"default","gateway":"1.2.3.4"},{"dst":"10.0.0.0/8"},{"dst":"10.1.2.3"},{"type":"local","dst":"127.0.0.0/8"}]'
    assert parse_routes(document) == [IPv4Network("10.0.0.0/8"), IPv4Network("10.1.2.3/32"), IPv4Network("127.0.0.0/8")]
    assert parse_routes("") == []
