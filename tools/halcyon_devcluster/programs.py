"""The Go programs of the cluster, and the cache key of each build. Pure.

A group of programs is built and cached together. Groups with compatible dependencies share a Go module of
`tools/go`: a library that several of them use is then compiled once, and one `go build` makes them all
(`batches`). The module `cluster` has the programs of a cluster and of its tests, which have most packages in common.
The committed go.mod files set the versions; go.sum pins every byte that is compiled.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_VERSION_PACKAGE = "k8s.io/component-base/version"
GO_MODULES = Path(__file__).resolve().parents[1] / "go"
"""The folder of the committed Go modules, beside this package in the repository."""


@dataclass(frozen=True)
class Group:
    """Programs that are built and kept together.

    Attributes:
        name: Name of the group; starts the name of the build's folder in the cache.
        packages: Program name → import path; a path that begins with `.` is source of this repository.
        source: The Go module whose version is the group's version; None for source of this repository.
        in_image: Whether to build for Linux on every host, because the program runs in a container.
        module: The module's folder in `tools/go`; None: the name of the group.
        stamp_kubernetes_version: Whether to link the version into the programs; without it Kubernetes' programs report
            v0.0.0.
        keep: A folder of the source module that is copied beside the programs (a Helm chart).
        tags: Build tags that leave out parts that are not needed.
    """

    name: str
    packages: Mapping[str, str]
    source: str | None = None
    module: str | None = None
    in_image: bool = False
    stamp_kubernetes_version: bool = False
    keep: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The module's folder in `tools/go`."""
        return self.module or self.name


# Not 1.37: its kubelet needs a newer containerd than Debian 12 has.
KUBERNETES = Group(
    "kubernetes",
    {
        name: f"k8s.io/kubernetes/cmd/{name}"
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
    }
    | {"etcd": "go.etcd.io/etcd/server/v3"},
    source="k8s.io/kubernetes",
    module="cluster",
    stamp_kubernetes_version=True,
)
KUBECTL = Group(
    "kubectl",
    {"kubectl": KUBERNETES.packages["kubectl"]},
    source=KUBERNETES.source,
    module="cluster",
    stamp_kubernetes_version=True,
)
JOBSET = Group(
    "jobset",
    {"jobset": "sigs.k8s.io/jobset"},
    source="sigs.k8s.io/jobset",
    module="cluster",
    in_image=True,
    keep="charts/jobset",
)
# Queues with quota, for tests and for clusters whose runs name a queue.
KUEUE = Group(
    "kueue",
    {"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
    source="sigs.k8s.io/kueue",
    module="cluster",
    in_image=True,
    keep="charts/kueue",
)
# A main function of this repository, with only the plugins in the cluster's Corefile.
COREDNS = Group(
    "coredns", {"coredns": "./coredns"}, source="github.com/coredns/coredns", module="cluster", in_image=True
)
VERSITYGW = Group(
    "versitygw",
    {"versitygw": "github.com/versity/versitygw/cmd/versitygw"},
    source="github.com/versity/versitygw",
    module="cluster",
    in_image=True,
)
HELM = Group("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}, source="helm.sh/helm/v4", module="cluster")
# The former Helm, which many clusters still use, for tests of the chart.
HELM3 = Group("helm3", {"helm": "helm.sh/helm/v3/cmd/helm"}, source="helm.sh/helm/v3")
# Nodes and pods that exist only in the API server, for tests of scale.
KWOK = Group("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, source="sigs.k8s.io/kwok", keep="kustomize/stage")
KIND = Group("kind", {"kind": "sigs.k8s.io/kind"}, source="sigs.k8s.io/kind")
PAUSE = Group("pause", {"pause": "."}, in_image=True)
# Only the service discovery of Kubernetes; the others need the libraries of twenty clouds.
PROMETHEUS = Group(
    "prometheus",
    {"prometheus": "github.com/prometheus/prometheus/cmd/prometheus"},
    source="github.com/prometheus/prometheus",
    in_image=True,
    tags=("remove_all_sd", "enable_kubernetes_sd"),
)
PROMTOOL = Group(
    "promtool",
    {"promtool": "github.com/prometheus/prometheus/cmd/promtool"},
    source=PROMETHEUS.source,
    module="prometheus",
    tags=PROMETHEUS.tags,
)

# Readers of TrainingRuns, for tests: Argo CD's own code that runs its scripts, kstatus, and a validator of documents.
ARGO = Group("argo", {"argo": "."}, source="github.com/argoproj/argo-cd/v3", keep="manifests/crds")
# Argo CD itself, and a cache for it. Version 3.2.12 does not compile, so the module has 3.2.11.
ARGOCD = Group(
    "argocd",
    {"argocd": "github.com/argoproj/argo-cd/v3/cmd", "argocd-redis": "./redis"},
    source="github.com/argoproj/argo-cd/v3",
    module="argo",
    keep="manifests/crds",
)
KSTATUS = Group("kstatus", {"kstatus": "."}, source="github.com/fluxcd/cli-utils")
KUBECONFORM = Group(
    "kubeconform",
    {"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"},
    source="github.com/yannh/kubeconform",
)
# Not built: only the CRDs of ServiceMonitor and its like in its source are used.
PROMETHEUS_OPERATOR = Group("prometheus-operator", {}, source="github.com/prometheus-operator/prometheus-operator")
# Checks GitHub workflows.
ACTIONLINT = Group(
    "actionlint", {"actionlint": "github.com/rhysd/actionlint/cmd/actionlint"}, source="github.com/rhysd/actionlint"
)
# Flux: the controllers that fetch a repository and apply it, with their CRDs.
FLUX_SOURCE = Group(
    "flux-source",
    {"source-controller": "github.com/fluxcd/source-controller"},
    source="github.com/fluxcd/source-controller",
    keep="config/crd/bases",
)
FLUX_KUSTOMIZE = Group(
    "flux-kustomize",
    {"kustomize-controller": "github.com/fluxcd/kustomize-controller"},
    source="github.com/fluxcd/kustomize-controller",
    keep="config/crd/bases",
)
# The controller of Flux that installs charts.
FLUX_HELM = Group(
    "flux-helm",
    {"helm-controller": "github.com/fluxcd/helm-controller"},
    source="github.com/fluxcd/helm-controller",
    keep="config/crd/bases",
)

NATIVE_GROUPS = (KUBERNETES, JOBSET, COREDNS, HELM, PAUSE)
"""The groups of a native cluster."""
KIND_GROUPS = (KUBECTL, JOBSET, HELM, KIND)
"""The groups of a kind cluster."""


def pinned_version(go_mod: str, module: str) -> str:
    """Read the version of `module` from the text of a go.mod file.

    Raises:
        ValueError: the file does not require the module.
    """
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)} (v[^\s]+)", go_mod, re.MULTILINE)
    if found is None:
        raise ValueError(f"go.mod requires no {module}")
    return found[1]


def linker_flags(groups: Iterable[Group], go_mod: str) -> list[str]:
    """Return the `-ldflags` options: no symbol tables, and the version of groups with `stamp_kubernetes_version`.

    An option of the form PATTERN=FLAGS applies to the programs whose import path matches.
    """
    plain = "-s -w"
    options = [f"-ldflags={plain}"]
    for source in dict.fromkeys(group.source for group in groups if group.stamp_kubernetes_version and group.source):
        version = pinned_version(go_mod, source)
        major, minor = version.removeprefix("v").split(".")[:2]
        stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
        options.append(
            f"-ldflags={source}/...={plain} "
            + " ".join(f"-X {_VERSION_PACKAGE}.{name}={value}" for name, value in stamps.items())
        )
    return options


def build_command(go: Path | str, groups: Sequence[Group], go_mod: str, output: Path | str) -> list[str]:
    """Return the `go build` command that writes the programs of one batch to folder `output`; run it in the module's
    folder.

    `-dwarf=false` omits debug information, which the linker would drop anyway; it takes a sixth of the compiler's time.
    """
    tags = groups[0].tags
    return [
        str(go),
        "build",
        "-v",
        "-trimpath",
        "-buildvcs=false",
        "-mod=readonly",
        "-gcflags=all=-dwarf=false",
        *linker_flags(groups, go_mod),
        *(["-tags", ",".join(tags)] if tags else []),
        "-o",
        f"{output}/",
        *dict.fromkeys(package for group in groups for package in group.packages.values()),
    ]


def build_environment(group: Group, host_os: str, host_arch: str) -> dict[str, str]:
    """Return the environment variables of the build.

    `CGO_ENABLED=0` because most of the programs run in an image without a C library.
    """
    return {
        "CGO_ENABLED": "0",
        "GOARCH": host_arch,
        "GOFLAGS": "",
        "GOOS": "linux" if group.in_image else host_os,
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def batches(groups: Iterable[Group], host_os: str, host_arch: str) -> list[tuple[Group, ...]]:
    """Divide groups into batches that one `go build` can make: same module, variables and tags.

    One build of many programs takes less time than one build each: while a program is linked, packages of the next are
    compiled.
    """
    found: dict[object, list[Group]] = {}
    for group in groups:
        together = (group.folder, group.tags, *build_environment(group, host_os, host_arch).items())
        found.setdefault(together, []).append(group)
    return [tuple(batch) for batch in found.values()]


def produced_name(package: str) -> str:
    """Return the file name that `go build -o folder/` gives a package: the last path element that is not a major
    version.
    """
    parts = package.split("/")
    return parts[-2] if re.fullmatch(r"v[0-9]+", parts[-1]) else parts[-1]


def cache_key(group: Group, sources: Mapping[str, bytes], go_version: str, host_os: str, host_arch: str) -> str:
    """Return the folder name of a build: the group's name and 16 hexadecimal digits of a hash of all its inputs.

    Args:
        group: The group.
        sources: Path → content of the files in the module's folder (go.mod, go.sum, own source).
        go_version: The version that the toolchain reports.
        host_os: `linux` or `darwin`.
        host_arch: Go's name of the architecture, such as `amd64`.
    """
    digest = hashlib.sha256()
    go_mod = sources["go.mod"].decode()
    inputs = [
        *build_command("go", [group], go_mod, "out"),
        *(f"{name}={value}" for name, value in sorted(build_environment(group, host_os, host_arch).items())),
        go_version,
        group.keep or "",
    ]
    for text in inputs:
        digest.update(text.encode() + b"\0")
    for name in sorted(sources):
        digest.update(name.encode() + b"\0" + hashlib.sha256(sources[name]).digest())
    return f"{group.name}-{digest.hexdigest()[:16]}"
