"""The three dashboards: the fleet, one run, the operator."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from halcyon_dashboards.panels import annotation, board, choice, stat_panel, table_panel, text_panel, time_series
from halcyon_dashboards.queries import FLEET, OPERATOR, RUN


def fleet() -> Dashboard:
    """Return the dashboard of all runs in the selected namespaces."""
    q = FLEET
    made = board("fleet", "Halcyon / Fleet", "All training runs: their state, their cost, and why they wait.")
    made = made.with_variable(
        choice("namespace", "Namespace", "label_values(halcyon_run_phase, namespace)", several=True)
    )
    for panel in (
        stat_panel("Active runs", "short", q["runs in work"]),
        stat_panel(
            "Runs that need a fix", "short", q["runs stalled"], bad_above=1, about="Their condition Stalled is True."
        ),
        stat_panel("Training devices", "short", q["devices busy"]),
        stat_panel("Hosts", "short", q["hosts"]),
        stat_panel(
            "Goodput", "percentunit", q["goodput"], about="Of the last hour, weighted by the devices of each run."
        ),
        stat_panel("Tokens per second", "short", q["tokens"]),
        time_series("Runs by phase", "short", q["runs"], stacked=True),
        time_series(
            "Devices by phase of their run",
            "short",
            q["devices"],
            stacked=True,
            about="Devices that runs hold or wait for.",
        ),
        time_series("Goodput of the last hour", "percentunit", q["goodput"], q["goodput of runs"]),
        time_series(
            "Where time goes",
            "short",
            q["badput"],
            stacked=True,
            about="Lost time by cause, as a number of runs: 2 means that the time of two runs is lost.",
        ),
        time_series(
            "Restarts",
            "short",
            q["restarts"],
            bars=True,
            stacked=True,
            about="By cause; docs/reference/operator.md explains them.",
        ),
        time_series(
            "Waiting",
            "short",
            q["waiting"],
            stacked=True,
            about="Runs that wait for hardware, for the operator, or for images.",
        ),
        time_series(
            "Longest waits for hardware",
            "s",
            q["waited"],
            width=12,
            about="Sum since the run began, including time in queues.",
        ),
        time_series(
            "Longest in a queue", "s", q["queued"], width=12, about="Runs that Kueue has not admitted, or has evicted."
        ),
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
    return made.with_panel(
        table_panel(
            "Runs", columns, rename={"phase": "Phase", "namespace": "Namespace", "run": "Run"}, hide=["Value #A"]
        )
    )


def run() -> Dashboard:
    """Return the dashboard of one run, over all its attempts."""
    q = RUN
    made = board("run", "Halcyon / Run", "One training run, over all its attempts; restarts are marked.")
    made = made.with_variable(
        choice("namespace", "Namespace", "label_values(halcyon_run_phase, namespace)", several=False)
    )
    runs = 'label_values(halcyon_run_phase{namespace="$namespace"}, run)'
    made = made.with_variable(choice("run", "Run", runs, several=False))
    rows = {
        "": (
            text_panel("Phase", q["phase"]),
            stat_panel("Progress", "percentunit", q["progress"]),
            stat_panel("Time left", "s", q["eta"]),
            stat_panel("Goodput", "percentunit", q["goodput"], about="Since the run began."),
            stat_panel("Devices", "short", q["devices"]),
            stat_panel("Attempt", "none", q["attempt"]),
        ),
        "Training": (
            time_series("Loss", "none", q["loss"], q["evaluation loss"], least=None, about="Nats per token."),
            time_series("Gradient norm", "none", q["gradient norm"]),
            time_series("Learning rate", "sci", q["learning rate"]),
        ),
        "Speed": (
            time_series("Tokens per second", "short", q["tokens"], q["planned tokens"]),
            time_series("MFU", "percentunit", q["mfu"], about="Only for devices whose peak is known."),
            time_series("Step time", "s", q["step p50"], q["step p90"], q["step p99"]),
            time_series(
                "Waiting for data", "percentunit", q["data wait"], about="Share of the time of the last steps."
            ),
            time_series(
                "Steps",
                "short",
                q["step"],
                q["checkpoint step"],
                width=16,
                about="The gap: steps that a crash would lose now.",
            ),
        ),
        "Checkpoints": (
            time_series("Age of the newest checkpoint", "s", q["checkpoint age"]),
            time_series(
                "Duration of a save", "s", q["save seconds"], q["blocked seconds"], about="Mean of the last 15 minutes."
            ),
            time_series("Failed saves", "short", q["checkpoint failures"], bars=True, width=4),
            stat_panel("Size", "bytes", q["checkpoint size"]),
        ),
        "Time": (
            time_series("Goodput", "percentunit", q["goodput"], q["goodput of the last hour"]),
            time_series(
                "Lost time of the last hour, by cause", "percentunit", q["badput of the last hour"], stacked=True
            ),
            time_series("Lost seconds since the start, by cause", "s", q["badput"], stacked=True),
        ),
        "Processes": (
            time_series("Processes by attempt", "short", q["processes"], q["healthy"], about="One per host."),
            time_series("Stages", "short", q["stages"], stacked=True, about="Number of processes in each stage."),
            time_series(
                "Since the last step",
                "s",
                q["idle"],
                q["idle limit"],
                about="Above the limit, a process counts as hung.",
            ),
            time_series("Restarts since the start", "short", q["restarts"], q["restarts in place"], width=24),
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
    made = board(
        "operator", "Halcyon / Operator", "The operator: its load, and its requests to the API server and to trainers."
    )
    for panel in (
        stat_panel("Operators that answer", "short", q["up"]),
        text_panel("Version", q["version"]),
        stat_panel("Runs", "short", q["runs"]),
        stat_panel("Runs in the work queue", "short", q["queue"], bad_above=50),
        stat_panel(
            "Watch lag",
            "s",
            q["watch lag"],
            bad_above=60,
            about="Age of the oldest own write that the watch has not shown.",
        ),
        stat_panel("Failed reconciles", "percentunit", q["errors"], bad_above=0.1),
        time_series("Reconciles", "ops", q["reconciles"], stacked=True),
        time_series("Duration of a reconcile", "s", q["reconcile p50"], q["reconcile p99"]),
        time_series("Queue", "short", q["queue"]),
        time_series("Watch lag", "s", q["watch lag"]),
        time_series("API requests", "reqps", q["api"], stacked=True),
        time_series("API answers", "reqps", q["api codes"], stacked=True),
        time_series("Reads of trainers' /status", "reqps", q["polls"], stacked=True),
        time_series("Reads of checkpoint heads", "reqps", q["head reads"], stacked=True),
        time_series("Processor time", "short", q["cpu"], width=4),
        time_series("Memory", "bytes", q["memory"], width=4),
    ):
        made = made.with_panel(panel)
    return made


def all_boards() -> dict[str, dict[str, Any]]:
    """Return every dashboard: name of its file → document."""
    documents = {
        name: make().build().to_json() for name, make in {"fleet": fleet, "run": run, "operator": operator}.items()
    }
    documents["run"]["annotations"] = {"list": [annotation("Restarts", RUN["restart marks"], "orange")]}
    return documents
