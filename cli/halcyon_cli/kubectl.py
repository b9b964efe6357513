"""The command `kubectl halcyon`: kubectl finds it on the PATH under the name ``kubectl-halcyon``."""

from halcyon.commands.errors import OneSentence, replace_unencodable
from halcyon.commands.main import Version
from halcyon.commands.options import Commands
from halcyon.commands.terminal import match_terminal
from halcyon_cli import commands

app = Commands(
    "Inspect and control training runs in a cluster.",
    name="kubectl halcyon",
    cls=OneSentence,
    add_completion=False,
)


@app.callback()
def main(version: Version = False) -> None:
    """Inspect and control training runs in a cluster."""
    del version  # typer prints it and exits before it reads a command
    match_terminal()
    replace_unencodable()


commands.register(app)

if __name__ == "__main__":
    app()
