"""The commands that a page of the documentation shows. Tests run them as written, so a page with a wrong command fails
a test. Pure except for reading the page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from halcyon_demo.documents import REPOSITORY

README, GUIDE = REPOSITORY / "README.md", REPOSITORY / "docs" / "guides" / "install.md"
CHART = ("oci://ghcr.io/OWNER/charts/halcyon", "--version", "0.1.0")
"""How the pages name the chart of a release."""

_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)

Command = list[str]


def commands(page: Path, heading: str) -> list[Command]:
    """The words of each command in the shell blocks below a second-level heading, in order.

    Raises:
        LookupError: The page has no such heading, or no command below it.
    """
    _, found, rest = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    section = rest.partition("\n## ")[0]
    lines = [line for block in _BLOCK.findall(section) for line in block.replace("\\\n", " ").splitlines()]
    shown = [words for line in lines if (words := shlex.split(line, comments=True))]
    if not found or not shown:
        raise LookupError(f"{page.name} shows no command below ## {heading}")
    return shown


def of_package(command: Command, package: Path) -> Command:
    """The command with the path of a chart package instead of the release's chart."""
    for begin in range(len(command)):
        if tuple(command[begin : begin + len(CHART)]) == CHART:
            return [*command[:begin], str(package), *command[begin + len(CHART) :]]
    return list(command)
