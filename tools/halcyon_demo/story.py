"""The demo, top to bottom."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from halcyon_cli.report import read_report
from halcyon_demo.comparison import Comparison, Loss, compare, losses
from halcyon_demo.documents import example, variant
from halcyon_demo.install import (
    RELEASE,
    Namespaces,
    chart_values,
    install_object_store,
    install_operator,
    provide_images,
)
from halcyon_demo.observations import Failed
from halcyon_demo.page import FLIP, Mark, picture
from halcyon_demo.recovery import Recovery
from halcyon_demo.tables import accounts_table, cost, equality_table, in_place_table, recovery_table, summary_table
from halcyon_demo.training import Training
from halcyon_demo.view import View
from halcyon_demo.watch import Watch
from halcyon_devcluster import Cluster, Faults
from halcyon_devcluster.machine import limit
from halcyon_devcluster.progress import ProgressView
from halcyon_devcluster.waiting import until

EXAMPLE = "stdlib-llama"
PLACE = Namespaces()
FLIP_FRACTION, EVICT_FRACTION, KILL_FRACTION, RESTART_OPERATOR_FRACTION = 0.12, 0.3, 0.55, 0.8
"""The faults are injected after these fractions of the steps."""
ALL_PODS_FRACTIONS = (0.12, 0.2)
"""The eviction and the kill of the run whose restarts replace all pods."""
AUDIT_FRACTION = 0.1
"""The devices are audited each time after this fraction of the steps."""
SNAPSHOTS_PER_AUDIT = 5
"""Snapshots in the memory of the pods between two audits."""
FLIPPED = 1
"""The process in whose memory a bit flips."""


@dataclass(frozen=True)
class DemoResult:
    """The result of the demo.

    Attributes:
        comparison: The comparison of both runs.
        disturbed: Losses of the run with faults.
        undisturbed: Losses of the other run.
        marks: The faults.
    """

    comparison: Comparison
    disturbed: list[Loss]
    undisturbed: list[Loss]
    marks: tuple[Mark, ...]

    def picture(self) -> str:
        """The text of an SVG file that shows both runs."""
        return picture(self.disturbed, self.undisturbed, self.marks, self.comparison)


def run_demo(cluster: Cluster, console: Console, progress: ProgressView, *, steps: int | None = None) -> DemoResult:
    """Run the demo on a cluster, which is started if it is down, and print the results.

    Args:
        cluster: The development cluster.
        console: Shows the runs and the tables.
        progress: Shows the preparations.
        steps: Steps of both runs; None: those of the example.

    Raises:
        Failed: A run did not continue or did not end.
        DevclusterError: The cluster could not be made, or a command on it failed.
    """
    cluster.up()
    images = provide_images(cluster, progress)
    clear(cluster, progress)
    with progress.step("Installing the object store"):
        install_object_store(cluster, images.store)
    with progress.step("Installing the operator with its chart"):
        install_operator(cluster, chart_values(images))

    document = audited(variant(example(EXAMPLE), steps=steps))
    kubectl, faults = cluster.kubectl, Faults(cluster)
    with Watch(kubectl, PLACE.runs) as watch:
        view = View(console, watch.observations)
        disturbed = Training(kubectl, faults, watch.observations, PLACE.runs, with_flip(document), view.draw)
        undisturbed = Training(
            kubectl, faults, watch.observations, PLACE.runs, variant(document, name=f"{EXAMPLE}-undisturbed"), view.draw
        )
        replaced = Training(kubectl, faults, watch.observations, PLACE.runs, replacing_all_pods(document), view.draw)
        recoveries, marks = disturb(cluster, view, disturbed)
        finish(view, watch, disturbed)
        disturbed.delete()  # its pods have ended, and their logs have been read

        view.say(f"\nThe same document again, as {undisturbed.name}, without faults", "bold")
        undisturbed.apply()
        finish(view, watch, undisturbed)
        view.say("\nThe same faults, where a restart replaces all pods (recovery.inPlace: false)", "bold")
        others = replace_all_pods(view, replaced)
    return conclude(console, disturbed, undisturbed, recoveries, others, marks)


def audited(document: dict[str, Any]) -> dict[str, Any]:
    """The document with audits and snapshots in the memory of the pods, and with a copy of the state on each of its
    four devices: of two copies that differ, none is known to be right. Pure.
    """
    changed = variant(document)
    every = max(1, round(AUDIT_FRACTION * document["spec"]["trainer"]["steps"]))
    changed["spec"] |= {"mesh": {"ici": {"data": 2}}, "recovery": {"audit": {"everySteps": every}}}
    changed["spec"]["checkpoint"]["memory"] = {"everySteps": max(1, every // SNAPSHOTS_PER_AUDIT)}
    return changed


def with_flip(document: dict[str, Any]) -> dict[str, Any]:
    """The audited document with a bit that flips in the memory of a process. Pure."""
    changed = variant(document)
    step = max(1, round(FLIP_FRACTION * document["spec"]["trainer"]["steps"]))
    changed["spec"]["recovery"]["audit"]["flipBit"] = {"step": step, "process": FLIPPED}
    return changed


def replacing_all_pods(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a run whose restarts replace all pods. Pure."""
    changed = variant(document, name=f"{EXAMPLE}-all-pods")
    changed["spec"]["recovery"]["inPlace"] = False
    del changed["spec"]["checkpoint"]["memory"]  # it ends with the pods
    return changed


def clear(cluster: Cluster, progress: ProgressView) -> None:
    """Delete the runs and checkpoints of an earlier demo in a kept cluster; a run would continue from an old checkpoint
    of its name.
    """
    found = cluster.kubectl("get", "namespaces", PLACE.runs, "--ignore-not-found", "--output=name")
    if found.strip():
        with progress.step(f"Deleting the namespace {PLACE.runs} of an earlier demo"):
            cluster.kubectl("delete", "namespace", PLACE.runs)


def disturb(cluster: Cluster, view: View, training: Training) -> tuple[tuple[Recovery, ...], tuple[Mark, ...]]:
    """Start the run, in which a bit flips, evict a pod, kill a trainer, and delete the operator's pod.

    Returns:
        The recoveries of the first three, and the marks of all four in the picture.
    """
    view.say(
        f"\nkubectl apply of examples/{EXAMPLE}.yaml, with audits (recovery.audit) and snapshots in memory", "bold"
    )
    training.apply()
    marks: list[Mark] = []

    def hit(fraction: float, title: str, what: str) -> None:
        training.wait_for_step(round(fraction * training.steps))
        marks.append(Mark(training.step(), title))
        view.say(f"→ step {marks[-1].step}: {what}", "yellow")

    with view.of(training.name, training.steps):
        hit(FLIP_FRACTION, FLIP, f"a bit flips in the memory of process {FLIPPED}, and nothing says so")
        flip = training.wait_for_recovery(training.flipped(marks[-1].step))
        view.say(f"  an audit finds it: {training.end('corrupted')}")
        view.say(_went_on(flip))

        hit(EVICT_FRACTION, "pod evicted", "evicting the pod of slice 1 through the Eviction API")
        eviction = training.wait_for_recovery(training.evict(1))
        view.say(_went_on(eviction))

        hit(KILL_FRACTION, "SIGKILL", "killing the trainer of slice 0 with SIGKILL")
        crash = training.wait_for_recovery(training.kill(0))
        view.say(_went_on(crash))

        hit(RESTART_OPERATOR_FRACTION, "operator deleted", "deleting the operator's pod")
        restart_operator(cluster)
        view.say(meanwhile(marks[-1].step, training.step()))
    return (flip, eviction, crash), tuple(marks)


def replace_all_pods(view: View, training: Training) -> tuple[Recovery, ...]:
    """Start the run, evict a pod and kill a trainer, and delete it."""
    training.apply()
    found: list[Recovery] = []
    with view.of(training.name, training.steps):
        for fraction, harm in zip(
            ALL_PODS_FRACTIONS, (lambda: training.evict(1), lambda: training.kill(0)), strict=True
        ):
            training.wait_for_step(round(fraction * training.steps))
            found.append(training.wait_for_recovery(harm()))
            view.say(f"→ {found[-1].fault.title}\n{_went_on(found[-1])}")
    training.delete()
    return tuple(found)


def restart_operator(cluster: Cluster) -> None:
    """Delete the operator's pod and wait until the next one is ready."""
    kubectl = cluster.kubectl
    pods = ["pod", "--namespace", PLACE.operator, f"--selector=app.kubernetes.io/instance={RELEASE}"]
    kubectl("delete", *pods, "--wait")
    until(
        lambda: kubectl.succeeds("wait", *pods, "--for=condition=Ready", f"--timeout={limit(5)}s"),
        timeout_seconds=120,
        failure=lambda: f"The operator does not become ready: see `kubectl --namespace {PLACE.operator} get pods`.",
    )


def finish(view: View, watch: Watch, training: Training) -> None:
    """Show the run until it has succeeded and its logs are read."""
    with view.of(training.name, training.steps):
        training.wait_for_phase("Succeeded")
    watch.finish_logs(training.name)
    view.say(f"  {training.name} succeeded: {training.step()} steps")


def conclude(
    console: Console,
    disturbed: Training,
    undisturbed: Training,
    recoveries: tuple[Recovery, ...],
    others: tuple[Recovery, ...],
    marks: tuple[Mark, ...],
) -> DemoResult:
    """Compare both runs and print the tables."""
    runs = disturbed.run, undisturbed.run
    if runs[0] is None or runs[1] is None:
        raise Failed("A run was never seen in the cluster.")
    reports = [read_report(run.name, run.status) for run in runs if run is not None]
    found = [losses(training.lines(), training.name) for training in (disturbed, undisturbed)]
    comparison = compare(found[0], found[1], disturbed.steps)
    accounts = [accounts_table(reports[0], reports[1])] if reports[0] is not None and reports[1] is not None else []
    for table in (
        recovery_table(recoveries),
        in_place_table(recoveries, others),
        *accounts,
        summary_table(cost(runs[0].status, disturbed.lines()), cost(runs[1].status, undisturbed.lines())),
        equality_table(comparison, disturbed.steps),
    ):
        console.print()
        console.print(table)
    return DemoResult(comparison, found[0], found[1], marks)


def meanwhile(before: int, after: int) -> str:
    """Return the line about the steps of the run while the operator was down. Pure."""
    if after == before:
        return f"  the operator is back before the run has done another step; it is at step {after}"
    return f"  the operator is back; meanwhile the run continued, from step {before} to step {after}"


def _went_on(found: Recovery) -> str:
    return (
        f"  training again {found.total_seconds:.1f} s after the fault, from step {found.resumed_step} "
        f"({found.source}); {found.lost_steps} steps are repeated"
    )
