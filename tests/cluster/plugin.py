"""`kubectl halcyon` as a user types it: the real kubectl finds the plugin of this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rich.text import Text

from halcyon_devcluster import Kubectl
from tests import pictures
from tests.suite.limits import limit


class Plugin:
    """The command in one namespace."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self._kubectl = str(kubectl.program)
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KUBECONFIG": str(kubectl.kubeconfig),
            "COLUMNS": "200",
        }
        self._namespace = namespace

    def __call__(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Its stdout, or its stderr if that is empty. It must exit with the code."""
        variables = self._environment | environment
        done = subprocess.run(
            self._command(arguments), env=variables, capture_output=True, text=True, timeout=limit(600), check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout or done.stderr

    def begun(self, *arguments: str) -> subprocess.Popen[str]:
        """The running command."""
        return subprocess.Popen(self._command(arguments), env=self._environment, stdout=subprocess.PIPE, text=True)

    def on_terminal(self, picture: str, columns: int, *arguments: str) -> str:
        """The text that a terminal of this width with all colours shows. It is also kept as a picture."""
        text = self(*arguments, COLUMNS=str(columns), FORCE_COLOR="1", COLORTERM="truecolor", TERM="xterm-256color")
        shown = Text.from_ansi(text)
        assert shown.spans, "the output must have colours"
        pictures.keep(picture, pictures.as_svg(shown, " ".join(("kubectl halcyon", *arguments)), columns))
        return shown.plain

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [self._kubectl, "halcyon", *arguments, "--namespace", self._namespace]
