"""The rendered configuration: valid for the parsers of its formats, complete, and with the settings that experience has
shown to be necessary."""

import json
import tomllib
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from halcyon_devcluster import DevclusterError, components, node_config
from halcyon_devcluster.addresses import Addresses
from halcyon_devcluster.files import filesystem_type, mounted_below, write_document
from halcyon_devcluster.kind import component_command, kind_config, node_container
from halcyon_devcluster.paths import Paths

PATHS = Paths("halcyon", Path("/cache"), Path("/state/halcyon"))
ADDRESSES = Addresses("halcyon", IPv4Network("10.100.0.0/16"))
DOCUMENTS = node_config.documents(PATHS, ADDRESSES, "halcyon-halcyon", "localhost/halcyon/pause:abc")
PARSERS = {".toml": tomllib.loads, ".yaml": yaml.safe_load, ".conflist": json.loads, ".conf": str}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_survive_their_format(path: Path, tmp_path: Path):
    document = DOCUMENTS[path]
    target = tmp_path / path.name
    write_document(target, document)
    assert PARSERS[path.suffix](target.read_text()) == document
    assert list(tmp_path.iterdir()) == [target]


def test_a_variable_of_the_user_replaces_that_of_the_components():
    assert components.environment({"GOGC": "50", "HOME": "/root"}) == components.environment({}) | {
        "GOGC": "50",
        "HOME": "/root",
    }


def test_mounts_are_found_at_and_below_a_folder():
    mounts = "a /state ext4 rw 0 0\nb /state/x tmpfs rw 0 0\nc /statement tmpfs rw 0 0\n"
    assert mounted_below(Path("/state"), mounts) == ["/state", "/state/x"]


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount():
    mounts = "overlay / overlay rw 0 0\n/dev/sda /data ext4 rw 0 0\ntmpfs /data/x tmpfs rw 0 0\n"
    assert filesystem_type(Path("/home/a/.cache"), mounts) == "overlay"
    assert filesystem_type(Path("/data/halcyon"), mounts) == "ext4"
    assert filesystem_type(Path("/data/x/y"), mounts) == "tmpfs"
    assert filesystem_type(Path("/database"), mounts) == "overlay"


def test_kind_gets_one_node_and_components_are_stopped_the_way_it_runs_them():
    assert kind_config()["nodes"] == [{"role": "control-plane"}]
    assert node_container("halcyon") == "halcyon-control-plane"
    assert component_command("kubelet", start=False) == ["systemctl", "stop", "kubelet"]
    assert "mv /etc/kubernetes/manifests/kube-apiserver.yaml" in component_command("kube-apiserver", start=False)[-1]
    assert component_command("kube-apiserver", start=True)[-1].endswith(
        "mv /etc/kubernetes/stopped/kube-apiserver.yaml /etc/kubernetes/manifests/kube-apiserver.yaml; fi"
    )
    with pytest.raises(DevclusterError, match="no component 'dns'"):
        component_command("dns", start=True)
