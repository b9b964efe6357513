"""`python -m halcyon_chat`, which is `make chat`: runs the stages that are not done, and serves the page."""

from __future__ import annotations

import platform
import signal
import subprocess
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from halcyon_api.package import version
from halcyon_chat.chain import REPORT, Broken, Stage, left, model_of, stages
from halcyon_chat.processes import Failed, end, run, start
from halcyon_chat.records import Folder, Record, read_chain
from halcyon_chat.view import View, duration

REPOSITORY = Path(__file__).resolve().parents[2]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_CONSOLE = Console(highlight=False)


@app.command()
def chat(
    folder: Annotated[Path, typer.Option(help="Folder of the chain: text, runs, results.")] = REPOSITORY
    / ".halcyon"
    / "chat",
    documents: Annotated[Path, typer.Option(help="Folder with the documents of the runs.")] = REPOSITORY
    / "examples"
    / "chat",
    serve: Annotated[bool, typer.Option(help="Serve the chat page at the end.")] = True,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page. 0: any free one.")] = 8000,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the chain, and begin again.")] = False,
) -> None:
    """Train a chat model from the text of the Python standard library, and talk with it.

    Goes on where an earlier command was stopped.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    place = Folder(folder.resolve())
    found = stages(read_chain(documents), place.path, [version(), platform.python_version()])
    try:
        with place.held():
            if fresh:
                place.clear()
            run_chain(place, found)
            if serve:
                serve_page(model_of(found), port)
    except KeyboardInterrupt:
        _CONSOLE.print("Stopped. `make chat` goes on where it was.")
        raise typer.Exit(130) from None


def run_chain(place: Folder, found: tuple[Stage, ...]) -> None:
    """Run the stages that are not done, and print the result of each.

    Raises:
        Broken: A run was done from another document.
        Failed: A stage has ended with an error.
    """
    records, view = place.records(), View(_CONSOLE, found)
    todo = left(found, {name: record.key for name, record in records.items()})
    began = time.monotonic()
    for number, stage in enumerate(found, 1):
        if stage not in todo:
            view.done_before(number, stage, records[stage.name])
            continue
        place.prepare(stage)
        stage_began = time.monotonic()
        with view.stage(number, stage) as events:
            run(stage.command, place.log(stage), events.add)
        seconds = time.monotonic() - stage_began
        record = Record(stage.key, seconds, events.came or place.results(stage), events.text)
        place.keep(stage, record.seconds, record.came)
        view.done(number, stage, record)
    if todo:
        view.say(f"All stages are done, {duration(time.monotonic() - began)} in this command.")
    for stage in found:
        if stage.result is not None:
            view.say(f"{stage.name}: {stage.result}/results.json")
    view.say(f"The report card: {place.path / REPORT}, and as Markdown report.md beside it.")


def serve_page(model: Stage, port: int) -> None:
    """Serve the chat page until an interrupt.

    Raises:
        Failed: The server has ended with an error.
    """
    process = start(["serve", str(model.root), "--name", model.name, "--port", str(port)], stdout=subprocess.DEVNULL)
    _CONSOLE.print(
        f"\nThe page of [bold]{escape(model.name)}[/bold] opens with the line `serving …` below, at the address in it. "
        "Ask, for example:\n"
        "  Who are you?\n"
        "  What does textwrap.dedent do?\n"
        "  How many r are in parameter?\n"
        "It is a very small model: it learns the form of answers, and is often wrong. Ctrl-C ends the server.\n",
        soft_wrap=True,
    )
    try:
        code = process.wait()
    except KeyboardInterrupt:
        end(process)
        return
    if code != 0:
        raise Failed(f"the server ended with exit code {code}; its sentence is above")


def main() -> None:
    """Run the command line; an error that the user can fix is printed as one sentence, with exit status 1."""
    try:
        app()
    except (Broken, Failed) as mistake:
        _CONSOLE.print(f"[red]error:[/red] {escape(str(mistake))}", soft_wrap=True)
        raise SystemExit(1) from None
