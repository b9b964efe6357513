"""Builds Go programs into the cache: at most once per key, atomically, with progress.

A build happens in a temporary folder beside its final folder, and each group is renamed when it is complete, so a
killed build leaves nothing that looks finished. A lock prevents two processes from building the same programs.
"""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from halcyon_devcluster.commands import run
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.lock import exclusive
from halcyon_devcluster.programs import (
    GO_MODULES,
    Group,
    batches,
    build_command,
    build_environment,
    cache_key,
    pinned_version,
    produced_name,
)
from halcyon_devcluster.progress import ProgressView, Step
from halcyon_devcluster.toolchain import Toolchain, find_go

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def host_platform() -> tuple[str, str]:
    """Return this machine's (operating system, architecture) by Go's names.

    Raises:
        DevclusterError: the architecture is not supported.
    """
    machine = platform.machine()
    if machine not in _GO_ARCHITECTURES:
        raise DevclusterError(f"The architecture {machine} is not supported: use an x86-64 or arm64 machine.")
    return platform.system().lower(), _GO_ARCHITECTURES[machine]


class Binaries:
    """The cache of built programs. The toolchain is searched once, when it is first needed."""

    def __init__(self, cache: Path, progress: ProgressView) -> None:
        self._cache = cache
        self._progress = progress
        self._toolchain: Toolchain | None = None

    def folder(self, group: Group) -> Path:
        """Return the folder of the group's programs; build them if they are missing."""
        self.provide([group])
        return self._folder(group)

    def provide(self, groups: Iterable[Group]) -> None:
        """Build the missing ones of `groups`, as many as possible in one `go build`."""
        wanted = tuple(groups)
        if not self.missing(wanted):
            return
        with exclusive(self._cache / "bin" / ".build.lock", self._progress):
            for batch in batches(self.missing(wanted), *host_platform()):
                self._build(batch)

    def path(self, group: Group, program: str) -> Path:
        """Return the path of one program of a group; build the group if it is missing."""
        return self.folder(group) / program

    def missing(self, groups: Iterable[Group]) -> list[Group]:
        """Return those of `groups` that are not built yet."""
        return [group for group in groups if not self._folder(group).is_dir()]

    def version(self, group: Group) -> str:
        """Return the pinned version of the group's source, such as `v1.35.4`."""
        return (
            pinned_version((GO_MODULES / group.folder / "go.mod").read_text(), group.source) if group.source else "own"
        )

    def source(self, group: Group) -> Path:
        """Return the folder of the group's source module in Go's module cache; download it if it is missing.

        Raises:
            DevclusterError: the download fails, or the group has only source of this repository.
        """
        if group.source is None:
            raise DevclusterError(f"The group {group.folder} has no source module.")
        command = [self.toolchain.command, "mod", "download", "-json", group.source]
        return Path(json.loads(run(command, cwd=GO_MODULES / group.folder))["Dir"])

    @property
    def toolchain(self) -> Toolchain:
        """The Go toolchain, searched or installed on first use."""
        if self._toolchain is None:
            self._toolchain = find_go(self._cache, self._progress)
        return self._toolchain

    def key(self, group: Group) -> str:
        """Return the key of the group's build in the cache."""
        return cache_key(group, _sources(group.folder), self.toolchain.version, *host_platform())

    def _folder(self, group: Group) -> Path:
        return self._cache / "bin" / self.key(group)

    def _build(self, batch: Sequence[Group]) -> None:
        """Build one batch of `batches`; the caller holds the lock."""
        module = GO_MODULES / batch[0].folder
        environ = os.environ | build_environment(batch[0], *host_platform())
        kept = self._cache / "bin"
        log = kept / f"{self.key(batch[0])}.log"
        for stale in kept.glob(".*/"):  # left by killed builds, because this one holds the lock
            shutil.rmtree(stale)
        temporary = Path(tempfile.mkdtemp(prefix=f".{batch[0].name}.", dir=kept))
        title = "Building " + "; ".join(f"{', '.join(group.packages)} {self.version(group)}" for group in batch)
        try:
            with self._progress.step(title) as step:
                built = temporary / "built"
                command = build_command(self.toolchain.command, batch, (module / "go.mod").read_text(), built)
                _compile(command, module, environ, log, step)
                for group in batch:
                    folder = temporary / group.name
                    folder.mkdir()
                    for program, package in group.packages.items():
                        # A link, because a program may belong to two groups of the batch.
                        (folder / program).hardlink_to(
                            built / (module.name if package == "." else produced_name(package))
                        )
                    if group.keep and group.source:
                        source = run(
                            [self.toolchain.command, "list", "-m", "-f", "{{.Dir}}", group.source], cwd=module
                        ).strip()
                        _copy(Path(source) / group.keep, folder / group.keep)
                    folder.rename(self._folder(group))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder out of the module cache, which is read-only."""
    shutil.copytree(source, target, copy_function=shutil.copy)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


@lru_cache
def _sources(folder: str) -> dict[str, bytes]:
    module = GO_MODULES / folder
    files = sorted(path for path in module.rglob("*") if path.is_file())
    if not files:
        raise DevclusterError(
            f"The Go module tools/go/{folder} is missing: run this from a checkout of the repository."
        )
    return {path.relative_to(module).as_posix(): path.read_bytes() for path in files}


def _compile(command: list[str], module: Path, environ: dict[str, str], log: Path, step: Step) -> None:
    """Run `go build -v`, which prints every compiled package, and show their number."""
    compiled = downloaded = 0
    last: list[str] = []
    with (
        log.open("w") as sink,
        subprocess.Popen(
            command,
            cwd=module,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
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
                step.update(
                    f"{downloaded} modules downloaded, {compiled} packages compiled"
                    if downloaded
                    else f"{compiled} packages"
                )
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise DevclusterError(f"`go build` in tools/go/{module.name} failed ({log} has it all): {' | '.join(last)}")
