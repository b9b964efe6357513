"""Runs other programs, and turns a failure into a sentence with the end of the program's output."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.machine import limit

_LAST_WORDS = 2000
_LONGEST_SECONDS = 600


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | bytes | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    timeout_seconds: float | None = None,
) -> str:
    """Run `argv` to its end and return its standard output.

    Args:
        argv: The program and its arguments; no shell is involved.
        stdin: Text given to the program.
        environ: Variables added to this process's own.
        cwd: The folder to run in.
        log: A file that receives output and errors as well, appended.
        timeout_seconds: The program is killed after this time; default: ten minutes of the reference machine (see
            `machine`).

    Raises:
        DevclusterError: the program is missing, failed, or did not end in time.
    """
    words = [str(word) for word in argv]
    longest = limit(_LONGEST_SECONDS) if timeout_seconds is None else timeout_seconds
    try:
        done = subprocess.run(
            words,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env={**os.environ, **environ} if environ is not None else None,
            cwd=cwd,
            timeout=longest,
            check=False,
        )
    except FileNotFoundError as missing:
        raise DevclusterError(f"{words[0]} is needed but cannot be run: {missing.strerror}.") from missing
    except subprocess.TimeoutExpired as late:
        raise DevclusterError(f"`{' '.join(words[:6])}` did not end within {longest:.0f} s.") from late
    output, errors = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as sink:
            sink.write(f"$ {' '.join(words)}\n{output}{errors}")
    if done.returncode != 0:
        last_words = (errors.strip() or output.strip())[-_LAST_WORDS:]
        raise DevclusterError(f"`{' '.join(words[:8])}` failed with status {done.returncode}: {last_words}")
    return output


def succeeds(argv: Sequence[str | Path], *, timeout_seconds: float | None = None) -> bool:
    """Whether `argv` ends with status 0 in time, by default within a minute of the reference machine; its output is
    discarded.
    """
    try:
        run(argv, timeout_seconds=limit(60) if timeout_seconds is None else timeout_seconds)
    except DevclusterError:
        return False
    return True
