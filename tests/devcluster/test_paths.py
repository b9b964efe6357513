"""The paths depend only on the environment, and a path that cannot work is rejected before anything starts."""

from pathlib import Path

import pytest

from halcyon_devcluster import DevclusterError
from halcyon_devcluster.paths import cluster_paths

HOME = Path("/home/someone")


def test_the_default_is_below_the_home_folder():
    paths = cluster_paths("halcyon", {}, HOME)
    assert paths.cache == HOME / ".cache/halcyon"
    assert paths.state == HOME / ".cache/halcyon/devcluster/halcyon"


def test_cache_and_state_can_be_moved_separately():
    paths = cluster_paths("two", {"HALCYON_CACHE": "/big/cache", "HALCYON_STATE": "/small/state"}, HOME)
    assert paths.binaries == Path("/big/cache/bin")
    assert paths.kubeconfig == Path("/small/state/two/kubeconfig")


def test_an_empty_setting_is_an_unset_one():
    assert cluster_paths("halcyon", {"HALCYON_CACHE": ""}, HOME).cache == HOME / ".cache/halcyon"


def test_two_clusters_share_the_cache_and_nothing_else():
    one, two = (cluster_paths(name, {}, HOME) for name in ("one", "two"))
    assert one.cache == two.cache
    assert one.lock != two.lock
    assert not one.state.is_relative_to(two.state)


@pytest.mark.parametrize("name", ["", "Halcyon", "1st", "a_b", "-a", "a-", "a" * 21, "../x"])
def test_a_name_that_is_no_label_is_refused(name: str):
    with pytest.raises(DevclusterError, match="cluster name"):
        cluster_paths(name, {}, HOME)


@pytest.mark.parametrize("folder", ["/run/x", "/var/lib/halcyon", "/var/log"])
def test_a_folder_that_the_node_hides_is_refused(folder: str):
    with pytest.raises(DevclusterError, match="HALCYON_STATE resolves to"):
        cluster_paths("halcyon", {"HALCYON_STATE": folder}, HOME)
    with pytest.raises(DevclusterError, match="HALCYON_CACHE resolves to"):
        cluster_paths("halcyon", {"HALCYON_CACHE": folder}, HOME)


def test_a_path_too_long_for_a_socket_is_refused():
    with pytest.raises(DevclusterError, match="too long for Unix sockets"):
        cluster_paths("halcyon", {"HALCYON_STATE": "/" + "d" * 80}, HOME)
