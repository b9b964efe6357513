"""The commands about runs in a cluster, shared by `halcyon` and `kubectl halcyon`."""

import typer

from halcyon_cli.commands.reports import compare, report
from halcyon_cli.commands.requests import checkpoint, profile, refresh, restart, resume, suspend
from halcyon_cli.commands.views import diff, logs, status


def register(app: typer.Typer, panel: str | None = None, local: str | None = None) -> None:
    """Add the commands to an application, under the heading `panel` of its help; under `local` those that also read the
    root of a run on this machine.
    """
    for command in (report, compare):
        app.command(rich_help_panel=local)(command)
    for command in (status, logs, diff, checkpoint, profile, suspend, resume, restart, refresh):
        app.command(rich_help_panel=panel)(command)
