"""Completion of `kubectl halcyon` in the shell: kubectl calls ``kubectl_complete-halcyon`` with the words typed so far.

The answer is one candidate a line, a tab before its explanation, and a last line with what the shell may do about it (as Cobra's
completion protocol has it: 4 means that no file names are offered).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise

import typer.main

from halcyon_cli.cluster import Place, Runs
from halcyon_cli.kubectl import app
from halcyon_cli.telling import Refused

_NO_FILES = ":4"
_WITHOUT_RUN = ("top",)


def candidates(words: Sequence[str], place: Place) -> Iterable[str]:
    """What may stand in the place of the last word."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    typed = words[-1] if words else ""
    if len(words) <= 1:
        return [f"{name}\t{command.get_short_help_str(60)}" for name, command in sorted(commands.items()) if name.startswith(typed)]
    if typed.startswith("-"):
        options = [option for option in commands[words[0]].params if option.param_type_name == "option"] if words[0] in commands else []
        return [f"{name}\t{option.help or ''}" for option in options for name in option.opts if name.startswith(typed)]
    if words[0] in commands and words[0] not in _WITHOUT_RUN and not any(not word.startswith("-") for word in words[1:-1]):
        found = Runs(place).list(everywhere=False)
        return [name for run in found if (name := run["metadata"]["name"]).startswith(typed)]
    return []


def main() -> None:
    """Answer kubectl."""
    words = sys.argv[1:]
    namespace = next((after for word, after in pairwise(words) if word in ("-n", "--namespace")), None)
    try:
        found = list(candidates(words, Place(namespace=namespace)))
    except Refused:
        found = []  # nobody wants an error in the middle of a word
    sys.stdout.write("\n".join([*found, _NO_FILES]) + "\n")
