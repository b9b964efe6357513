"""The Python interpreters of this machine that the trainer supports, and an environment from uv.lock for each."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

from halcyon_devcluster.paths import cache_folder

REPOSITORY = Path(__file__).parents[2]
VERSIONS = ("3.12", "3.13")
"""The supported versions."""
_EXTRAS = ("report", "serve", "trainer")


def of_version(version: str) -> dict[str, Path]:
    """The interpreters of a version on PATH and of pyenv, one for each patch release, by the release."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    known = subprocess.run(
        [uv(), "python", "find", "--system", version], capture_output=True, text=True, check=False
    ).stdout.strip()
    paths = [*([Path(known)] if known else []), *sorted(pyenv.glob(f"versions/{version}.*/bin/python3"))]
    return {_release(path): path for path in paths}


def others() -> list[Path]:
    """The interpreters of all supported versions, without the release that runs the tests."""
    found = {release: path for version in VERSIONS for release, path in of_version(version).items()}
    return [path for release, path in found.items() if release != platform.python_version()]


def halcyon_of(python: Path) -> Path:
    """The command `halcyon` in an environment with this interpreter and the packages of uv.lock.

    The environment stays in the cache.
    """
    checkout = hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[
        :8
    ]  # the environment names the folder of the checkout
    folder = cache_folder(os.environ, Path.home()) / "pythons" / f"{_release(python)}-{checkout}"
    extras = [word for extra in _EXTRAS for word in ("--extra", extra)]
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"} | {
        "UV_PROJECT_ENVIRONMENT": str(folder)
    }
    made = subprocess.run(
        [uv(), "sync", "--frozen", "--quiet", "--compile-bytecode", *extras, "--python", str(python)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return folder / "bin" / "halcyon"


def _release(python: Path) -> str:
    return subprocess.run(
        [python, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True, check=True
    ).stdout.strip()


def uv() -> str:
    """The command `uv`: on PATH, or as `make setup` has installed it."""
    own = sorted(cache_folder(os.environ, Path.home()).glob("uv-*/bin/uv"))
    path = shutil.which("uv") or (str(own[-1]) if own else None)
    assert path is not None, "there is no uv; run `make setup`"
    return path
