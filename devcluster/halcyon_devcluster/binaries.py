"""Building Go programs into the cache: at most once for each key, atomically, with progress.

A build happens in a temporary folder beside its final place and is renamed there when it is whole, so a killed build leaves nothing that
looks finished. One lock keeps two builders from doing the same work.
"""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from halcyon_devcluster.commands import run
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.lock import exclusive
from halcyon_devcluster.programs import (
    GO_MODULES,
    Group,
    build_command,
    build_environment,
    cache_key,
    pinned_version,
    produced_name,
)
from halcyon_devcluster.progress import Progress, Step
from halcyon_devcluster.toolchain import Toolchain, find_go

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def host_platform() -> tuple[str, str]:
    """Return this machine's (operating system, architecture) in Go's words.

    Raises:
        DevclusterError: the architecture is not known here.
    """
    machine = platform.machine()
    if machine not in _GO_ARCHITECTURES:
        raise DevclusterError(f"The architecture {machine} is not supported: use an x86-64 or arm64 machine.")
    return platform.system().lower(), _GO_ARCHITECTURES[machine]


class Binaries:
    """The cache of built programs. The toolchain is looked for once, when it is first needed."""

    def __init__(self, cache: Path, progress: Progress) -> None:
        self._cache = cache
        self._progress = progress
        self._toolchain: Toolchain | None = None

    def folder(self, group: Group) -> Path:
        """Return the folder of the group's programs, building them first where they are not there."""
        folder = self._cache / "bin" / self.key(group)
        if not folder.is_dir():
            with exclusive(self._cache / "bin" / ".build.lock", self._progress):
                if not folder.is_dir():
                    self._build(group, folder)
        return folder

    def path(self, group: Group, program: str) -> Path:
        """Return the path of one program of a group, building the group first where it is not there."""
        return self.folder(group) / program

    def missing(self, groups: Iterable[Group]) -> list[Group]:
        """Return those of `groups` that are still to be built."""
        return [group for group in groups if not (self._cache / "bin" / self.key(group)).is_dir()]

    def version(self, group: Group) -> str:
        """Return the pinned version of the group's source, such as `v1.35.4`."""
        return pinned_version((GO_MODULES / group.folder / "go.mod").read_text(), group.source) if group.source else "own"

    def source(self, group: Group) -> Path:
        """Return the folder of the group's source module in Go's module cache, fetching it first where it is not there.

        Raises:
            DevclusterError: it cannot be fetched, or the group has no source but our own.
        """
        if group.source is None:
            raise DevclusterError(f"The group {group.folder} has no source module.")
        command = [self.toolchain.command, "mod", "download", "-json", group.source]
        return Path(json.loads(run(command, cwd=GO_MODULES / group.folder))["Dir"])

    @property
    def toolchain(self) -> Toolchain:
        """The Go that builds."""
        if self._toolchain is None:
            self._toolchain = find_go(self._cache, self._progress)
        return self._toolchain

    def key(self, group: Group) -> str:
        """Return the key under which a build of the group is kept."""
        return cache_key(group, _sources(group.folder), self.toolchain.version, *host_platform())

    def _build(self, group: Group, folder: Path) -> None:
        module = GO_MODULES / group.folder
        environ = os.environ | build_environment(group, *host_platform())
        log = self._cache / "bin" / f"{folder.name}.log"
        title = f"Building {', '.join(group.packages)} {self.version(group)}"
        for stale in folder.parent.glob(f".{folder.name}.*"):  # of a build that was killed: this one holds the lock
            shutil.rmtree(stale)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            with self._progress.step(title) as step:
                command = build_command(self.toolchain.command, group, (module / "go.mod").read_text(), temporary)
                _compile(command, module, environ, log, step)
                for program, package in group.packages.items():
                    produced = temporary / (module.name if package == "." else produced_name(package))
                    if produced.name != program:
                        produced.rename(temporary / program)
                if group.keep and group.source:
                    source = run([self.toolchain.command, "list", "-m", "-f", "{{.Dir}}", group.source], cwd=module).strip()
                    kept = temporary / group.keep
                    shutil.copytree(Path(source) / group.keep, kept, copy_function=shutil.copy)
                    for path in [kept, *kept.rglob("*")]:  # the module cache is read-only
                        path.chmod(0o755 if path.is_dir() else 0o644)
                temporary.chmod(0o755)
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@lru_cache
def _sources(folder: str) -> dict[str, bytes]:
    files = sorted((GO_MODULES / folder).iterdir())
    if not files:
        raise DevclusterError(f"The Go module devcluster/go/{folder} is missing: run this from a checkout of the repository.")
    return {path.name: path.read_bytes() for path in files if path.is_file()}


def _compile(command: list[str], module: Path, environ: dict[str, str], log: Path, step: Step) -> None:
    """Run `go build -v`, which names every package as it is compiled, and show how many there were."""
    compiled = downloaded = 0
    last: list[str] = []
    with (
        log.open("w") as sink,
        subprocess.Popen(
            command, cwd=module, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                sink.write(line)
                last = [*last[-5:], line.strip()]
                if line.startswith("go: downloading"):
                    downloaded += 1
                else:
                    compiled += 1
                step.update(f"{downloaded} modules downloaded, {compiled} packages compiled" if downloaded else f"{compiled} packages")
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise DevclusterError(f"`go build` in devcluster/go/{module.name} failed ({log} has it all): {' | '.join(last)}")
