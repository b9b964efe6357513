"""The three dashboards: the fleet, one run, the operator."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from halcyon_dashboards.panels import board, choice, graph, marks, number, sheet, word
from halcyon_dashboards.queries import FLEET, OPERATOR, RUN


def fleet() -> Dashboard:
    """Every run of the namespaces that are chosen."""
    q = FLEET
    made = board("fleet", "Halcyon / Fleet", "All training runs: what they do, what they cost, and why they wait.")
    made = made.with_variable(choice("namespace", "Namespace", "label_values(halcyon_run_phase, namespace)", several=True))
    for panel in (
        number("Runs in work", "short", q["runs in work"]),
        number("Runs that need somebody", "short", q["runs stalled"], bad_above=1, about="Their condition Stalled is True."),
        number("Devices that train", "short", q["devices busy"]),
        number("Hosts", "short", q["hosts"]),
        number("Goodput", "percentunit", q["goodput"], about="Of the last hour, runs weighted by their devices."),
        number("Tokens per second", "short", q["tokens"]),
        graph("Runs by phase", "short", q["runs"], stacked=True),
        graph("Devices by phase of their run", "short", q["devices"], stacked=True, about="Held or waited for."),
        graph("Goodput of the last hour", "percentunit", q["goodput"], q["goodput of runs"]),
        graph(
            "Where time goes",
            "short",
            q["badput"],
            stacked=True,
            about="Runs that do nothing useful, by cause: 2 means two runs' time is lost.",
        ),
        graph("Restarts", "short", q["restarts"], bars=True, stacked=True, about="By cause; docs/reference/operator.md explains them."),
        graph("Waiting", "short", q["waiting"], stacked=True, about="Runs that wait for hardware, for the operator, or for images."),
        graph("Longest waits for hardware", "s", q["waited"], width=12, about="Seconds since the run began, those in queues too."),
        graph("Longest in a queue", "s", q["queued"], width=12, about="Runs that Kueue has yet to admit, or to admit again."),
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
    """One run, over all its attempts."""
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
            graph("MFU", "percentunit", q["mfu"], about="Only where the device's peak is known."),
            graph("Step time", "s", q["step p50"], q["step p90"], q["step p99"]),
            graph("Waiting for data", "percentunit", q["data wait"], about="Share of the last steps' time."),
            graph("Steps", "short", q["step"], q["checkpoint step"], width=16, about="The gap is what a loss of the run would cost now."),
        ),
        "Checkpoints": (
            graph("Age of the newest checkpoint", "s", q["checkpoint age"]),
            graph("Duration of a save", "s", q["save seconds"], q["blocked seconds"], about="Means of the last 15 minutes."),
            graph("Failed saves", "short", q["checkpoint failures"], bars=True, width=4),
            number("Size", "bytes", q["checkpoint size"]),
        ),
        "Time": (
            graph("Goodput", "percentunit", q["goodput"], q["goodput of the last hour"]),
            graph("Lost time of the last hour, by cause", "percentunit", q["badput of the last hour"], stacked=True),
            graph("Lost seconds since the start, by cause", "s", q["badput"], stacked=True),
        ),
        "Processes": (
            graph("Processes by attempt", "short", q["processes"], q["healthy"], about="One a host."),
            graph("Stages", "short", q["stages"], stacked=True, about="What the processes are doing."),
            graph("Since the last step", "s", q["idle"], q["idle limit"], about="Above the limit a process counts as hung."),
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
    """The operator itself."""
    q = OPERATOR
    made = board("operator", "Halcyon / Operator", "Whether the operator keeps up, and what it asks of the API server and of trainers.")
    for panel in (
        number("Operators that answer", "short", q["up"]),
        word("Version", q["version"]),
        number("Runs", "short", q["runs"]),
        number("Runs that wait for a look", "short", q["queue"], bad_above=50),
        number("Watch lag", "s", q["watch lag"], bad_above=60, about="Age of the oldest own write that the watch has not shown."),
        number("Failing looks", "percentunit", q["errors"], bad_above=0.1),
        graph("Looks at runs", "ops", q["reconciles"], stacked=True),
        graph("Duration of a look", "s", q["reconcile p50"], q["reconcile p99"]),
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
    """Every dashboard, by the name of its file."""
    documents = {name: make().build().to_json() for name, make in {"fleet": fleet, "run": run, "operator": operator}.items()}
    documents["run"]["annotations"] = {"list": [marks("Restarts", RUN["restart marks"], "orange")]}
    return documents
