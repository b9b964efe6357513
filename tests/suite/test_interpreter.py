"""Which Python `make setup` takes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

MAKEFILE = Path(__file__).parents[2] / "Makefile"
SHOW = "show: ; @echo '$(PYTHON)'"


def chosen(tmp_path: Path, known: str) -> str:
    """The interpreter on a machine whose uv knows one Python version, and nothing else does."""
    make, bash = shutil.which("make"), shutil.which("bash")
    assert make is not None
    assert bash is not None
    programs = tmp_path / "bin"
    programs.mkdir(parents=True)
    (programs / "bash").symlink_to(bash)
    (programs / "uv").write_text(f'#!{bash}\n[ "$*" = "python find --system {known}" ] && echo {sys.executable}\n')
    (programs / "uv").chmod(0o755)
    environment = {"PATH": str(programs), "HOME": str(tmp_path)}
    found = subprocess.run(
        [make, "--file", MAKEFILE, "--eval", SHOW, "show"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip()


def test_an_interpreter_of_uv_is_found_and_without_any_uv_chooses(tmp_path: Path) -> None:
    assert chosen(tmp_path / "one", "3.12") == sys.executable
    assert chosen(tmp_path / "none", "3.10") == ""
