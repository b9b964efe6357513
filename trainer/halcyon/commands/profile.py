"""The commands about profiles: the request to the training process of this machine or pod, and the view of a stored
profile.
"""

import http.client
import json
import os
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from halcyon.commands.errors import report_errors
from halcyon.commands.views.tables import FittedTable
from halcyon.host.errors import BadConfiguration
from halcyon_api import post_requests
from halcyon_api.counting import percent
from halcyon_api.environment import SAVE_TOKEN

_SECONDS = 10.0

Steps = Annotated[int, typer.Option(min=1, max=post_requests.MAX_PROFILED_STEPS, help="Number of steps to profile.")]


def profile_here(
    steps: Steps = post_requests.USUAL_PROFILED_STEPS,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9400,
) -> None:
    """Ask the training process of this pod to profile its next steps.

    `kubectl halcyon profile` runs this command in a pod.

    Args:
        port: `telemetry.port` of the run.
    """
    with report_errors():
        taken = requested(steps, port, os.environ.get(SAVE_TOKEN, ""))
        typer.echo(
            f"{taken.steps} steps after step {taken.step} are profiled; the folder will be below profiles/ in the "
            "checkpoint root"
        )


def requested(steps: int, port: int, token: str) -> post_requests.ProfileRequestTaken:
    """Send a request to a process of this machine.

    Args:
        steps: Number of steps.
        port: Port of its telemetry.
        token: The token of the process.

    Raises:
        BadConfiguration: There is no token, or no process that trains.
    """
    if not token:
        raise BadConfiguration(
            f"{SAVE_TOKEN} is not set, so this is no pod of a run; on your own machine send SIGUSR2 to the process"
        )
    try:
        run = json.loads(_answer(port, "GET", "/status")[1]).get("run", "")
        body = post_requests.ProfileRequest(run=run, steps=steps).model_dump_json(by_alias=True)
        code, reply = _answer(port, "POST", post_requests.PROFILE_PATH, body, {"Authorization": f"Bearer {token}"})
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise BadConfiguration(f"no process of a run answers on port {port} ({error}); give --port") from None
    if code != http.client.ACCEPTED:
        raise BadConfiguration(reply.decode(errors="replace").strip())
    return post_requests.ProfileRequestTaken.model_validate_json(reply, by_alias=True, by_name=False)


def _answer(
    port: int, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("localhost", port, timeout=_SECONDS)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def profile_view(path: str, numbers: dict[int, dict[str, Any]]) -> RenderableType:
    """A stored profile: the speed of each process, MFU, time by phase, and the slow processes.

    Args:
        path: Address of the folder.
        numbers: The numbers of each process.
    """
    from halcyon.telemetry.diagnostics import slow_processes

    first = next(iter(numbers.values()))
    columns = "p50", "p90", "p99", "collectives", "waited for data"
    table = FittedTable("process", "host", numbers=columns, drops=("p99", "p90"))
    for process, mine in numbers.items():
        step = mine.get("stepSeconds") or {}
        cells = [
            *(step.get(name) for name in ("p50", "p90", "p99")),
            mine.get("collectiveSeconds"),
            mine.get("dataWaitSeconds"),
        ]
        table.add_row(
            str(process), str(mine.get("host", "")), *("-" if cell is None else f"{cell:.4g} s" for cell in cells)
        )
    window = first.get("windowSeconds", 0.0)
    title = f"{path}: {first.get('steps')} steps from step {first.get('firstStep')}, {window:.3g} s"
    if first.get("mfu") is not None:
        peak = first.get("peakFlopsPerSecond")
        mfu = f"MFU {percent(first['mfu'], 1)} = {first.get('mfuFormula')}, peak {peak:.4g} FLOP/s"
    else:
        mfu = "MFU is not known: the hardware table has no peak for this accelerator"
    causes = (first.get("secondsByCause") or {}).items()
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in causes if seconds)
    known = {process: mine["collectiveSeconds"] for process, mine in numbers.items() if "collectiveSeconds" in mine}
    slow = slow_processes(known, window)
    names = ", ".join(f"process {process} on {numbers[process].get('host')}" for process in slow)
    if slow:
        verdict = Text(f"the others wait for {names}", "red")
    else:
        verdict = Text("no process is clearly slower than the others", "green")
    return Group(Text(title), table, Text(mfu), Text(f"process 0 since its start: {times}"), verdict)
