"""Completion of `kubectl halcyon` in the shell: kubectl calls ``kubectl_complete-halcyon`` with the words typed so far.

The output follows Cobra's completion protocol: one candidate per line, a tab, its explanation; then a last line with a
directive for the shell. Directive 4: offer no file names.
"""

import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise

import typer.main

from halcyon.host.output import guard_streams
from halcyon_cli.cluster import Runs
from halcyon_cli.kubectl import app
from halcyon_cli.output import Rejected

_NO_FILES = ":4"
_WITH_RUNS = ("compare",)


def candidates(words: Sequence[str], namespace: str | None) -> Iterable[str]:
    """Return the candidates for the last word: commands, options, or names of runs."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    typed = words[-1] if words else ""
    if len(words) <= 1:
        return [
            f"{name}\t{command.get_short_help_str(60)}"
            for name, command in sorted(commands.items())
            if name.startswith(typed)
        ]
    if typed.startswith("-"):
        options = (
            [option for option in commands[words[0]].params if option.param_type_name == "option"]
            if words[0] in commands
            else []
        )
        return [f"{name}\t{option.help or ''}" for option in options for name in option.opts if name.startswith(typed)]
    complete = words[0] not in _WITH_RUNS and any(not word.startswith("-") for word in words[1:-1])
    if words[0] in commands and not complete:
        found = Runs(namespace=namespace).list()
        return [name for run in found if (name := run["metadata"]["name"]).startswith(typed)]
    return []


def main() -> None:
    """Print the candidates for kubectl."""
    guard_streams()
    words = sys.argv[1:]
    namespace = next((after for word, after in pairwise(words) if word in ("-n", "--namespace")), None)
    try:
        found = list(candidates(words, namespace))
    except Rejected:
        found = []  # an error message would disturb the user's input line
    sys.stdout.write("\n".join([*found, _NO_FILES]) + "\n")
