"""A build's key changes with every input that changes its bytes, and with nothing else."""

import re

import pytest

from halcyon_devcluster import programs
from halcyon_devcluster.addons import corefile
from halcyon_devcluster.programs import (
    GO_MODULES,
    KUBERNETES,
    cache_key,
    pinned_version,
)

GROUPS = [
    *programs.NATIVE_GROUPS,
    programs.VERSITYGW,
    programs.KWOK,
    programs.KIND,
    programs.KUBECTL,
    programs.PROMETHEUS,
    programs.PROMTOOL,
    programs.ARGO,
    programs.KSTATUS,
    programs.KUBECONFORM,
    programs.PROMETHEUS_OPERATOR,
    programs.ACTIONLINT,
    programs.FLUX_SOURCE,
    programs.FLUX_KUSTOMIZE,
    programs.KUEUE,
]
SOURCES = {"go.mod": b"require (\n\tk8s.io/kubernetes v1.2.3\n)\n", "go.sum": b"sum"}


def key(**changes: object) -> str:
    inputs = {
        "group": KUBERNETES,
        "sources": SOURCES,
        "go_version": "go1.26.1",
        "host_os": "linux",
        "host_arch": "amd64",
    }
    return cache_key(**(inputs | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"go_version": "go1.26.2"},
        {"host_os": "darwin"},
        {"host_arch": "arm64"},
        {"sources": SOURCES | {"go.sum": b"other"}},
        {"sources": SOURCES | {"go.mod": SOURCES["go.mod"].replace(b"v1.2.3", b"v1.2.4")}},
        {"sources": SOURCES | {"coredns/main.go": b"package main"}},
        {"group": programs.KUBECTL},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_input_changes_the_key(changes: dict[str, object]):
    assert key(**changes) != key()


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_every_group_has_a_committed_module_with_a_pinned_version(group: programs.Group):
    go_mod = (GO_MODULES / group.folder / "go.mod").read_text()
    if group.source:
        assert pinned_version(go_mod, group.source).startswith("v")
        assert (GO_MODULES / group.folder / "go.sum").stat().st_size > 0
    for package in group.packages.values():
        if package.startswith("."):
            assert list((GO_MODULES / group.folder / package).glob("*.go"))
        else:
            assert f"\t{package}\n" in go_mod or f"tool {package}\n" in go_mod


def test_coredns_has_the_plugins_of_the_corefile_and_no_others():
    main = (GO_MODULES / programs.COREDNS.folder / "coredns" / "main.go").read_text()
    directives = re.search(r"Directives = \[\]string\{(.*)\}", main)
    assert directives
    named = set(re.findall(r"^ {4}(\w+)", corefile(), re.MULTILINE))
    assert set(re.findall(r"coredns/plugin/(\w+)\"", main)) == named
    assert set(re.findall(r"\"(\w+)\"", directives[1])) == named
