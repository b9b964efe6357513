"""The rendered configuration: valid for the parsers of its formats, complete, and with the settings that experience has
shown to be necessary."""

import json
import tomllib
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from halcyon_devcluster import DevclusterError, addons, components, node_config
from halcyon_devcluster.addresses import Addresses
from halcyon_devcluster.files import filesystem_type, mounted_below, write_document
from halcyon_devcluster.kind import component_command, kind_config, node_container
from halcyon_devcluster.kueue import kueue_values
from halcyon_devcluster.namespaces import KERNEL_SETTINGS, anchor_command, enter, link_commands
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


def test_containerd_keeps_its_files_in_the_state_folder_and_lowers_no_oom_score():
    config = node_config.containerd(PATHS, "pause:x")
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is True
    assert cri["sandbox_image"] == "pause:x"
    for folder in (config["root"], config["state"], config["grpc"]["address"], cri["cni"]["conf_dir"]):
        assert Path(folder).is_relative_to(PATHS.state)


def test_the_kubelet_never_evicts_for_the_hosts_disk_and_stays_in_its_group():
    config = node_config.kubelet(PATHS, ADDRESSES, "halcyon-x")
    assert config["cgroupRoot"] == "/halcyon-x"
    assert config["failCgroupV1"] is False
    assert config["evictionHard"]["nodefs.available"] == "0%"
    assert config["authentication"]["anonymous"]["enabled"] is False


@pytest.mark.parametrize("name", components.COMPONENTS)
def test_every_component_has_a_command_without_doubled_flags(name: str):
    program, *arguments = components.command(name, Path("/bin") / name, PATHS, ADDRESSES)
    assert program == f"/bin/{name}"
    flags = [argument.partition("=")[0] for argument in arguments]
    assert len(flags) == len(set(flags))


def test_a_variable_of_the_user_replaces_that_of_the_components():
    assert components.environment({"GOGC": "50", "HOME": "/root"}) == components.environment({}) | {
        "GOGC": "50",
        "HOME": "/root",
    }


def test_the_api_server_has_the_address_of_its_certificate():
    arguments = components.kube_apiserver(PATHS, ADDRESSES)
    assert f"--advertise-address={ADDRESSES.node}" in arguments
    assert f"--service-cluster-ip-range={ADDRESSES.services}" in arguments


def test_names_outside_the_cluster_are_answered_without_failing():
    """tests/cluster also tests it in a running cluster; here only the order of the servers that makes it work."""
    inside, outside = addons.corefile().split(".:1053", 1)
    assert "kubernetes cluster.local" in inside
    assert "template" not in inside
    assert "rcode NXDOMAIN" in outside


def test_coredns_passes_the_restricted_profile():
    deployment = next(
        document for document in addons.coredns(ADDRESSES, "coredns:x") if document["kind"] == "Deployment"
    )
    security = deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}


def test_jobset_uses_the_local_image_and_requests_little_cpu():
    values = addons.jobset_values("localhost/halcyon/jobset:abc")
    assert values["image"] == {"repository": "localhost/halcyon/jobset", "tag": "abc", "pullPolicy": "Never"}
    assert values["controller"]["resources"]["requests"]["cpu"] == "20m"


def test_kueue_manages_only_jobs_and_jobsets():
    values = kueue_values("localhost/halcyon/kueue:abc", waitForPodsReady={"timeout": "5s"})
    manager = values["controllerManager"]["manager"]
    assert manager["image"] == {"repository": "localhost/halcyon/kueue", "tag": "abc", "pullPolicy": "Never"}
    configuration = yaml.safe_load(values["managerConfig"]["controllerManagerConfigYaml"])
    assert configuration["integrations"]["frameworks"] == ["batch/job", "jobset.x-k8s.io/jobset"]
    assert configuration["waitForPodsReady"] == {"timeout": "5s"}


def test_the_anchor_hides_the_kernel_settings_that_a_kubelet_would_change():
    script = anchor_command(Path("/state/sysctl"))[-1]
    for name in KERNEL_SETTINGS:
        assert f"mount --bind '/state/sysctl/{name.replace('/', '.')}' /proc/sys/{name}" in script
    assert script.endswith("exec sleep infinity")


def test_commands_enter_both_namespaces_and_keep_their_process():
    assert enter(7, ["/bin/x", "-a"]) == [
        "/usr/bin/nsenter",
        "--net=/proc/7/ns/net",
        "--mount=/proc/7/ns/mnt",
        "--",
        "/bin/x",
        "-a",
    ]
    first, *_, last = link_commands(7, ADDRESSES)
    assert first[3:6] == [ADDRESSES.host_link, "type", "veth"]
    assert last[3:6] == ["10.100.0.0/16", "via", "10.100.255.2"]


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
