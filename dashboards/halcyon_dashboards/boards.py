"""The three dashboards: the fleet, one run, the operator."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from halcyon_dashboards.panels import board, choice, graph, marks, number, sheet, word
from halcyon_dashboards.queries import FLEET, OPERATOR, RUN


def fleet() -> Dashboard:
    """Return the dashboard of all runs in the selected namespaces."""
    q = FLEET
    made = board("fleet", "Halcyon / Fleet", "All training runs: their state, their cost, and why they wait.")
    made = made.with_variable(choice("namespace", "Namespace", "label_values(halcyon_run_phase, namespace)", several=True))
    for panel in (
        number("Active runs", "short", q["runs in work"]),
        number("Runs that need a fix", "short", q["runs stalled"], bad_above=1, about="Their condition Stalled is True."),
        number("Training devices", "short", q["devices busy"]),
        number("Hosts", "short", q["hosts"]),
        number("Goodput", "percentunit", q["goodput"], about="Of the last hour, weighted by the devices of each run."),
        number("Tokens per second", "short", q["tokens"]),
        graph("Runs by phase", "short", q["runs"], stacked=True),
        graph("Devices by phase of their run", "short", q["devices"], stacked=True, about="Devices that runs hold or wait for."),
        graph("Goodput of the last hour", "percentunit", q["goodput"], q["goodput of runs"]),
        graph(
            "Where time goes",
            "short",
            q["badput"],
            stacked=True,
            about="Lost time by cause, as a number of runs: 2 means that the time of two runs is lost.",
        ),
        graph("Restarts", "short", q["restarts"], bars=True, stacked=True, about="By cause; docs/reference/operator.md explains them."),
        graph("Waiting", "short", q["waiting"], stacked=True, about="Runs that wait for hardware, for the operator, or for images."),
        graph("Longest waits for hardware", "s", q["waited"], width=12, about="Sum since the run began, including time in queues."),
        graph("Longest in a queue", "s", q["queued"], width=12, about="Runs that Kueue has not admitted, or has evicted."),
    ):
        made = made.with_panel(panel)
    columns = {
        "Phase": ("none", q["table phase"]),
        "Progress": ("percentunit", q["table progress"]),
        "Goodput": ("percentunit", q["table goodput"]),
        "Devices": ("short", q["table devices"]),
        "Restarts": ("short", q["table restarts"]),
        "Checkpoint age": ("s", q["table checkpoint"]),
    }
    return made.with_panel(sheet("Runs", columns, rename={"phase": "Phase", "namespace": "Namespace", "run": "Run"}, hide=["Value #A"]))


def run() -> Dashboard:
    """Return the dashboard of one run, over all its attempts."""
    q = RUN
    made = board("run", "Halcyon / Run", "One training run, over all its attempts; restarts are marked.")
    made = made.with_variable(choice("namespace", "Namespace", "label_values(halcyon_run_phase, namespace)", several=False))
    runs = 'label_values(halcyon_run_phase{namespace="$namespace"}, run)'
    made = made.with_variable(choice("run", "Run", runs, several=False))
    rows = {
        "": (
            word("Phase", q["phase"]),
            number("Progress", "percentunit", q["progress"]),
            number("Time left", "s", q["eta"]),
            number("Goodput", "percentunit", q["goodput"], about="Since the run began."),
            number("Devices", "short", q["devices"]),
            number("Attempt", "none", q["attempt"]),
        ),
        "Training": (
            graph("Loss", "none", q["loss"], q["evaluation loss"], least=None, about="Nats per token."),
            graph("Gradient norm", "none", q["gradient norm"]),
            graph("Learning rate", "sci", q["learning rate"]),
        ),
        "Speed": (
            graph("Tokens per second", "short", q["tokens"]),
            graph("MFU", "percentunit", q["mfu"], about="Only for devices whose peak is known."),
            graph("Step time", "s", q["step p50"], q["step p90"], q["step p99"]),
            graph("Waiting for data", "percentunit", q["data wait"], about="Share of the time of the last steps."),
            graph("Steps", "short", q["step"], q["checkpoint step"], width=16, about="The gap: steps that a crash would lose now."),
        ),
        "Checkpoints": (
            graph("Age of the newest checkpoint", "s", q["checkpoint age"]),
            graph("Duration of a save", "s", q["save seconds"], q["blocked seconds"], about="Mean of the last 15 minutes."),
            graph("Failed saves", "short", q["checkpoint failures"], bars=True, width=4),
            number("Size", "bytes", q["checkpoint size"]),
        ),
        "Time": (
            graph("Goodput", "percentunit", q["goodput"], q["goodput of the last hour"]),
            graph("Lost time of the last hour, by cause", "percentunit", q["badput of the last hour"], stacked=True),
            graph("Lost seconds since the start, by cause", "s", q["badput"], stacked=True),
        ),
        "Processes": (
            graph("Processes by attempt", "short", q["processes"], q["healthy"], about="One per host."),
            graph("Stages", "short", q["stages"], stacked=True, about="Number of processes in each stage."),
            graph("Since the last step", "s", q["idle"], q["idle limit"], about="Above the limit, a process counts as hung."),
            graph("Restarts since the start", "short", q["restarts"], width=24),
        ),
    }
    for title, panels in rows.items():
        if title:
            made = made.with_row(Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    return made


def operator() -> Dashboard:
    """Return the dashboard of the operator."""
    q = OPERATOR
    made = board("operator", "Halcyon / Operator", "The operator: its load, and its requests to the API server and to trainers.")
    for panel in (
        number("Operators that answer", "short", q["up"]),
        word("Version", q["version"]),
        number("Runs", "short", q["runs"]),
        number("Runs in the work queue", "short", q["queue"], bad_above=50),
        number("Watch lag", "s", q["watch lag"], bad_above=60, about="Age of the oldest own write that the watch has not shown."),
        number("Failed reconciles", "percentunit", q["errors"], bad_above=0.1),
        graph("Reconciles", "ops", q["reconciles"], stacked=True),
        graph("Duration of a reconcile", "s", q["reconcile p50"], q["reconcile p99"]),
        graph("Queue", "short", q["queue"]),
        graph("Watch lag", "s", q["watch lag"]),
        graph("API requests", "reqps", q["api"], stacked=True),
        graph("API answers", "reqps", q["api codes"], stacked=True),
        graph("Reads of trainers' /status", "reqps", q["polls"], stacked=True),
        graph("Reads of checkpoint heads", "reqps", q["head reads"], stacked=True),
        graph("Processor time", "short", q["cpu"], width=4),
        graph("Memory", "bytes", q["memory"], width=4),
    ):
        made = made.with_panel(panel)
    return made


def all_boards() -> dict[str, dict[str, Any]]:
    """Return every dashboard: name of its file → document."""
    documents = {name: make().build().to_json() for name, make in {"fleet": fleet, "run": run, "operator": operator}.items()}
    documents["run"]["annotations"] = {"list": [marks("Restarts", RUN["restart marks"], "orange")]}
    return documents
