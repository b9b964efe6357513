"""Measures Halcyon on the accelerator of this machine, in stages, and holds its kernels against a reference.

    python tests/accelerator/run.py --minutes 9 [--only attention,llama] [--peer NANOCHAT] [--wheels FOLDER] [--rows
    FILE] [--page PAGE]

Stages run in the order of their worth, each in a process of its own, so that one that fails ends no other. Each row is
printed, and appended to the file of rows, as soon as it is known. When the minutes are over, the stage that runs is
ended, and the script ends well.

`--dry-run` runs all stages in tiny sizes, on the processor too. `--wheels` names a folder of `pack.sh`, for a machine
that lacks packages and has no network. `--peer` is a checkout of karpathy/nanochat; `--torch` is an interpreter with
torch (default: this one, if it has it). `--page` writes the tables of a file of rows into a page and measures nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("trainer", "crds")
sys.path[:0] = [str(ROOT), *(str(ROOT / name) for name in PACKAGES)]

from tests.accelerator.rows import Row, Table, read, with_section  # noqa: E402 - the path is set above

STAGES: dict[str, float] = {
    "gradients": 120,
    "llama-8192": 120,
    "bits": 150,
    "llama-float8-tensor": 120,
    "llama-8b": 120,
    "llama-8b-float8-tensor": 120,
    "proof": 120,
    "sharded": 150,
    "nanochat": 420,
    "llama-4096": 120,
    "llama-remat": 180,
    "attention": 150,
    "attention-speed": 120,
    "ceilings": 60,
    "llama-8192-across": 120,
    "llama-8192-blockwise": 120,
    "experts": 150,
    "llama-float8": 120,
    "llama-8b-float8": 120,
    "llama-float8-fast": 120,
    "llama-float8-wide": 120,
    "llama-mxfp8": 120,
    "llama-unroll": 120,
    "llama-moments": 120,
    "llama-offload": 120,
    "profile": 90,
    "decode": 150,
    "llama-4096-across": 120,
    "resume": 180,
}
"""The stages in the order of their worth, what was never measured first, and the most seconds of each."""
_GRACE = 10.0


def unpacked(wheels: Path, folder: Path) -> Path:
    """The packages of a folder of wheels, in a folder that can be imported from."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def environment(wheels: Path | None, folder: Path) -> dict[str, str]:
    """The environment of a stage's process."""
    paths = [str(ROOT), *(str(ROOT / name) for name in PACKAGES)]
    if wheels is not None:
        paths.append(str(unpacked(wheels, folder / "packages")))
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        # A stage that compiles the step of an earlier one reads it back. The stage that reports the time to compile
        # comes first.
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder / "programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "2"),
    }


def command_of(stage: str, seconds: float, arguments: argparse.Namespace) -> list[str]:
    """The command of a stage's process."""
    command = [sys.executable, "-m", "tests.accelerator.stage", stage, "--seconds", f"{seconds:.0f}"]
    command += ["--dry-run"] if arguments.dry_run else []
    return command + [
        word for name in ("peer", "torch") if (value := getattr(arguments, name)) for word in (f"--{name}", str(value))
    ]


def rows_of(stage: str, command: Sequence[str], seconds: float, environ: Mapping[str, str]) -> Iterator[Row]:
    """Run a stage in a process of its own; yields its rows, and a row with ``error`` if it fails or takes too long.

    Args:
        stage: Its name.
        command: The command; each line of its output that begins with a brace is a row.
        seconds: Time after which it is ended.
        environ: Its environment.
    """
    child = subprocess.Popen(
        command, env=dict(environ), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    lines: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        with child.stdout or contextlib.nullcontext(()) as output:
            for line in output:
                lines.put(line)
        lines.put(None)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    until = time.monotonic() + seconds
    try:
        while True:
            try:
                line = lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                yield {"stage": stage, "error": f"ended after its {seconds:.0f} s"}
                return
            if line is None:
                break
            if line.startswith("{"):
                yield {"stage": stage, **json.loads(line)}
        if child.wait(_GRACE):
            yield {"stage": stage, "error": f"the stage ended with exit code {child.returncode}"}
    finally:
        _end(child)
        listener.join(_GRACE)


def _end(child: subprocess.Popen[str]) -> None:
    """End a stage with all processes that it has started."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.terminate()  # has no effect on a process that has ended
        child.wait(_GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def main() -> int:
    """Run the stages; returns 0 if no row has an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(STAGES), help=f"of {','.join(STAGES)}"
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on any device")
    parser.add_argument("--peer", type=Path, help="a checkout of karpathy/nanochat")
    parser.add_argument("--torch", type=Path, help="an interpreter with torch")
    parser.add_argument("--wheels", type=Path, help="a folder of pack.sh")
    parser.add_argument(
        "--rows", type=Path, default=Path("accelerator.jsonl"), help="file that the rows are appended to"
    )
    parser.add_argument("--page", type=Path, help="write the tables of --rows into this page, and measure nothing")
    arguments = parser.parse_args()
    if arguments.page is not None:
        if not arguments.rows.exists():
            parser.error(f"--rows: there is no file {arguments.rows}, so the page stays as it is")
        arguments.page.write_text(with_section(arguments.page.read_text(), read(arguments.rows)))
        return 0
    unknown = [name for name in arguments.only if name not in STAGES]
    if unknown:
        parser.error(f"--only: there is no stage {unknown[0]}; the stages are {', '.join(STAGES)}")
    if arguments.torch is None and importlib.util.find_spec("torch") is not None:
        arguments.torch = Path(sys.executable)
    until, failed, table = time.monotonic() + 60 * arguments.minutes, 0, Table()
    with (
        tempfile.TemporaryDirectory(prefix="halcyon-accelerator-") as folder,
        arguments.rows.open("a", encoding="utf-8") as file,
    ):
        environ = environment(arguments.wheels, Path(folder))
        for stage in ["machine", *arguments.only]:
            left = until - time.monotonic() - _GRACE
            if left < _GRACE:
                print(f"\nThe minutes are over before the stage {stage}.", flush=True)
                break
            began = time.monotonic()
            seconds = min(left, STAGES.get(stage, 60))
            for row in rows_of(stage, command_of(stage, seconds, arguments), seconds, environ):
                failed += "error" in row
                file.write(json.dumps(row) + "\n")
                file.flush()
                print("\n".join(table.lines(row)), flush=True)
            print(f"\n({stage}: {time.monotonic() - began:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
