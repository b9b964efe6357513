"""Runs kept in git: no change by the API server or the operator is shown as a difference, other tools read the state of
a run correctly, and a run that is removed from git and added again continues from its checkpoints.

`HALCYON_RECORD=FOLDER pytest tests/cluster/test_gitops.py tests/apiserver/test_gitops.py` writes the observed runs, one
file for each state, in the format of the test data of the Argo CD scripts.
"""

from __future__ import annotations

import copy
import json
import re
import secrets
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.box import SIMPLE_HEAD
from rich.table import Table

from halcyon_api.generate.argocd import CONFIG_MAP
from halcyon_api.status.run_status import Phase
from halcyon_demo.documents import EXAMPLES, variant
from halcyon_devcluster.programs import FLUX_KUSTOMIZE
from halcyon_devcluster.waiting import until
from halcyon_operator.kube.client import merge_patch
from tests import pictures
from tests.cluster.flux import flux, served
from tests.cluster.git import WAYS, Git
from tests.cluster.whole_path import WholePath
from tests.examples.documents import shown_documents
from tests.gitops import readers
from tests.gitops.recording import record
from tests.gitops.states import HEALTH, KSTATUS
from tests.suite.limits import limit

pytestmark = [pytest.mark.cluster, pytest.mark.variant, pytest.mark.timeout(600), pytest.mark.xdist_group("path")]

RESOURCE = "trainingruns.halcyon.dev"


def get(path: WholePath, name: str) -> dict[str, Any]:
    return path.devcluster.kubectl.json("get", RESOURCE, name, "--namespace", path.place.runs)


def delete(path: WholePath, *names: str) -> None:
    path.devcluster.kubectl(
        "delete", RESOURCE, *names, "--namespace", path.place.runs, "--ignore-not-found", "--cascade=foreground"
    )


@pytest.fixture(scope="module")
def argo() -> Iterator[readers.Argo]:
    with readers.argo(CONFIG_MAP) as found:
        yield found


@pytest.fixture(scope="module")
def kstatus() -> Iterator[readers.Reader]:
    with readers.kstatus() as found:
        yield found


def split(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Parse the output of `kubectl get --watch --output=json`: indented objects, one after the other. Pure.

    An object ends with its only line that is a closing brace without indentation.
    """
    kept: list[str] = []
    for line in lines:
        kept.append(line)
        if line.rstrip() == "}":
            yield json.loads("".join(kept))
            kept = []


class Watched:
    """Every state of a run that a watch received."""

    def __init__(self, path: WholePath, name: str) -> None:
        kubectl = path.devcluster.kubectl
        # With a name as argument, kubectl misses changes between its first read and its watch; a list with a field
        # selector has no such gap.
        chosen = ["get", RESOURCE, f"--field-selector=metadata.name={name}", "--namespace", path.place.runs]
        command = [kubectl.program, "--kubeconfig", kubectl.kubeconfig, *chosen, "--watch", "--output=json"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.states: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for run in split(self._process.stdout or ()):
            self.states.append(run)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def watching(path: WholePath, name: str) -> Iterator[Watched]:
    """Watch a run during the block, then wait until the watch has received the run's last change."""
    found = Watched(path, name)

    def version(run: dict[str, Any]) -> str:
        return run["metadata"]["resourceVersion"]

    def received_the_last_change() -> bool:
        return bool(found.states) and version(found.states[-1]) == version(get(path, name))

    try:
        yield found
        until(
            received_the_last_change,
            timeout_seconds=30,
            failure=lambda: f"the watch did not receive the last change: {found.states[-1:]}",
        )
    finally:
        found.close()


def check(states: list[dict[str, Any]], want: set[Phase], argo: readers.Argo, kstatus: readers.Reader) -> None:
    """Check that Argo CD and kstatus report every received state correctly, and that the phases `want` are among
    them.
    """
    phases: set[Phase] = set()
    for run in states:
        record(run)
        status, fresh = run["status"], run["status"]["observedGeneration"] == run["metadata"]["generation"]
        phase = status.get("phase", "Pending")
        stalled = any((one["type"], one["status"]) == ("Stalled", "True") for one in status.get("conditions", []))
        expected = (
            ("InProgress", "Progressing")
            if not fresh
            else ("Failed", "Degraded")
            if stalled
            else (KSTATUS[phase], HEALTH[phase])
        )
        assert (kstatus.ask(run).get("status"), argo.health(run)["status"]) == expected, status
        if fresh:
            phases.add(phase)
    assert phases >= want


def act(path: WholePath, argo: readers.Argo, action: str, name: str) -> None:
    """What Argo CD does when a user chooses an action: its script edits the live object, and the edit is sent as a
    merge patch.
    """
    # A trainer's log has its steps before the operator's next poll: the offered actions follow the status.
    until(
        lambda: action in argo.offers(get(path, name)),
        timeout_seconds=60,
        failure=lambda: str(get(path, name)["status"]),
    )
    before = get(path, name)
    patch = json.dumps(merge_patch(before, argo.do(action, before)))
    path.devcluster.kubectl("patch", RESOURCE, name, "--namespace", path.place.runs, "--type=merge", f"--patch={patch}")


@pytest.mark.parametrize("way", WAYS)
def test_a_run_in_git_never_differs_and_other_tools_read_its_state(
    path: WholePath, argo: readers.Argo, kstatus: readers.Reader, way: str
) -> None:
    """Actions edit fields that git does not set, so no tool sees a difference; and each state is read correctly."""
    training = path.training(f"in-git-{way}")
    document = variant(path.document, name=training.name)
    git = Git(path.devcluster.kubectl, path.place.runs, [document], way)
    outspoken = Git(
        path.devcluster.kubectl, path.place.runs, [document | {"spec": document["spec"] | {"suspend": False}}], "client"
    )
    git.apply()
    with watching(path, training.name) as heard:
        training.wait_for_step(5)
        assert git.diff() == ""
        act(path, argo, "checkpoint", training.name)
        act(path, argo, "suspend", training.name)
        training.wait_for_phase("Suspended")
        assert git.diff() == ""
        if way == "client":  # server-side apply reports a conflict instead
            assert "-  suspend: true\n+  suspend: false\n" in outspoken.diff(), (
                "a field that git sets must be a difference"
            )
        git.apply()
        assert get(path, training.name)["spec"]["suspend"], "git does not set it"
        act(path, argo, "resume", training.name)
        training.wait_for_phase("Succeeded")
        assert git.diff() == ""
    assert get(path, training.name)["status"]["saveRequest"]["step"] >= 5
    check(heard.states, {"Starting", "Running", "Suspending", "Suspended", "Restarting", "Succeeded"}, argo, kstatus)
    delete(path, training.name)


def test_a_run_that_cannot_continue_is_degraded(path: WholePath, argo: readers.Argo, kstatus: readers.Reader) -> None:
    document = variant(path.document, name="hopeless")
    document["spec"]["checkpoint"] = {
        "root": "file:///nowhere"
    }  # only the operator rejects it: it is lost with the pod
    git = Git(path.devcluster.kubectl, path.place.runs, [document], "server")
    git.apply()
    with watching(path, "hopeless") as heard:
        until(
            lambda: get(path, "hopeless")["status"].get("phase") == "Failed",
            timeout_seconds=60,
            failure=lambda: str(heard.states[-1:]),
        )
        assert git.diff() == ""
    check(heard.states, {"Failed"}, argo, kstatus)
    delete(path, "hopeless")


def committed(path: WholePath, root: str) -> int:
    """The newest committed step in a checkpoint root; 0 if it has none."""
    with path.root(root) as store:
        try:
            head = json.loads(bytes(store.get("HEAD").bytes()))
        except FileNotFoundError:
            return 0
    return max((entry["step"] for entry in head["committed"]), default=0)


def shown(kind: str) -> dict[str, Any]:
    """An object as the guide shows it."""
    found = [
        document
        for where, document in shown_documents()
        if where.startswith("docs/guides/gitops.md") and document["kind"] == kind
    ]
    return copy.deepcopy(found[0])


class Reported:
    """The reports of Flux's Kustomization, commit by commit: each change once, in order."""

    def __init__(self) -> None:
        self._table = Table("commit", "Ready", "reason", "message", "inventory", box=SIMPLE_HEAD, show_lines=True)
        self._last: tuple[str, ...] = ()

    def hear(self, commit: str, status: dict[str, Any]) -> None:
        ready = next((one for one in status.get("conditions", []) if one["type"] == "Ready"), None)
        if ready is None:
            return
        held = sorted(entry["id"] for entry in status.get("inventory", {}).get("entries", []))
        message = re.sub(r"(sha1:[0-9a-f]{7})[0-9a-f]{33}", r"\1", ready["message"])
        row = (commit, ready["status"], ready["reason"], message, "\n".join(held))
        if row != self._last:
            self._table.add_row(*row)
            self._last = row

    def picture(self) -> str:
        return pictures.as_svg(self._table, "Flux: the Kustomization of an environment", 170)


@pytest.mark.timeout(1800)  # for a machine that has never built Flux
def test_flux_applies_prunes_and_restores_a_run(path: WholePath, tmp_path: Path) -> None:
    """The example repository and the guide's objects, with Flux's real controllers: a run removed from git keeps its
    checkpoints.
    """
    kubectl, runs = path.devcluster.kubectl, path.place.runs
    name, root = "wide", f"{runs}/wide"
    with served(EXAMPLES / "gitops", tmp_path) as repository, flux(kubectl, tmp_path, FLUX_KUSTOMIZE):
        # A user would fill in the example like this: the namespace, the store, and one long experiment.
        repository.edit("environments/staging/namespace.yaml", "name: staging", f"name: {runs}")
        repository.edit("environments/staging/kustomization.yaml", "namespace: staging", f"namespace: {runs}")
        for other in ("baseline", "gpt2"):
            repository.edit("environments/staging/kustomization.yaml", f"  - ../../experiments/{other}\n", "")
        repository.edit("environments/staging/small.yaml", "steps: 20", "steps: 2000")
        repository.edit("environments/staging/small.yaml", "everySteps: 5", "everySteps: 2")
        repository.edit(
            "base/run.yaml", "http://object-store.training.svc.cluster.local:7070", path.place.store_endpoint
        )
        source, applied = shown("GitRepository"), shown("Kustomization")
        source["spec"] |= {"url": repository.url}
        applied["spec"] |= {"path": "./environments/staging", "timeout": "3m", "retryInterval": "5s"}
        label = (applied["kind"], applied["metadata"]["name"])
        where = ("--namespace", applied["metadata"]["namespace"])

        reported = Reported()

        def reconciled(message: str) -> set[str]:
            """Push, make Flux reconcile now, and wait until it reports the commit as applied and all its objects as
            healthy. Returns the inventory."""
            commit = repository.push(message)
            kubectl.apply([source, applied])
            for kind, what in (("gitrepository", source), ("kustomization", applied)):
                mark = f"reconcile.fluxcd.io/requestedAt={commit}-{len(kind)}-{secrets.token_hex(2)}"
                kubectl("annotate", "--overwrite", kind, what["metadata"]["name"], mark, *where)

            status: dict[str, Any] = {}

            def ready() -> bool:
                status.clear()
                status.update(kubectl.json("get", label[0], label[1], *where).get("status", {}))
                reported.hear(message, status)
                conditions = {one["type"]: one["status"] for one in status.get("conditions", [])}
                return str(status.get("lastAppliedRevision", "")).endswith(commit) and conditions.get("Ready") == "True"

            until(
                ready,
                timeout_seconds=180,
                failure=lambda: kubectl("get", "gitrepository,kustomization", "-A", "--output=yaml"),
            )
            return {entry["id"] for entry in status["inventory"]["entries"]}

        held = {f"_{runs}__Namespace", f"{runs}_{name}_halcyon.dev_TrainingRun"}
        try:
            assert reconciled("Try a wider model") == held
            assert get(path, name)["status"]["phase"] in ("Running", "Succeeded"), (
                "it must be ready only once it trains"
            )
            generation = get(path, name)["metadata"]["generation"]
            until(
                lambda: committed(path, root) >= 4, timeout_seconds=120, failure=lambda: str(get(path, name)["status"])
            )

            whole = (repository.tree / "environments/staging/kustomization.yaml").read_text()
            assert get(path, name)["metadata"]["generation"] == generation == 1, "nothing may be applied twice"
            repository.edit("environments/staging/kustomization.yaml", "  - ../../experiments/wide\n", "")
            assert reconciled("Stop the wider model") == {f"_{runs}__Namespace"}
            gone = ("get", RESOURCE, name, "--namespace", runs, "--ignore-not-found", "--output=name")
            until(lambda: not kubectl(*gone), timeout_seconds=60, failure=lambda: kubectl(*gone))
            pods = ("get", "pods", f"--selector=halcyon.dev/run={name}", "--namespace", runs, "--output=name")
            until(lambda: not kubectl(*pods), timeout_seconds=90, failure=lambda: kubectl(*pods))
            assert kubectl("get", "namespace", runs, "--output=jsonpath={.status.phase}") == "Active", (
                "its annotation must keep it"
            )
            saved = committed(path, root)
            assert saved >= 4

            (repository.tree / "environments/staging/kustomization.yaml").write_text(whole)
            assert reconciled("Go on with the wider model") == held
            status = get(path, name)["status"]
            assert status["history"][0]["fromStep"] == saved
            assert status["attempt"] > 1, "the attempt must be above the epoch that the root has seen"

            patch = repository.tree / "experiments/wide/run.yaml"
            patch.write_text(patch.read_text().replace("spec:\n", "spec:\n  suspend: true\n"))
            assert reconciled("Let it rest") == held
            assert get(path, name)["status"]["phase"] == "Suspended", "Flux must call that healthy"
            pictures.keep("gitops-flux", reported.picture())
        finally:
            kubectl("delete", label[0], label[1], *where, f"--timeout={limit(90)}s")
            kubectl("delete", "gitrepository", source["metadata"]["name"], *where, f"--timeout={limit(60)}s")
    assert kubectl("get", "namespace", runs, "--output=jsonpath={.status.phase}") == "Active"
    assert committed(path, root) >= saved
