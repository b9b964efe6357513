"""A run of `halcyon train` with audits, and `halcyon replay` of its steps: on a sound device neither finds anything. Then
the same run with one flipped bit: one device computes the wrong bit twice, so only the replay finds it; with several
devices the audit finds it, and the run ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from tests.accelerator.measure import Options
from tests.accelerator.rows import Row
from tests.accelerator.stages.resume import STEPS, document

EVERY, FLIPPED_AFTER = 5, 7


def rows(options: Options) -> Iterator[Row]:
    """One row for the sound run, and one for that with a flipped bit."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for run, flip in (("sound", None), ("flipped", {"step": FLIPPED_AFTER, "process": 0})):
            made = document(folder, run, jax.default_backend(), options)
            audit = {"everySteps": EVERY} | ({} if flip is None else {"flipBit": flip})
            made["spec"]["recovery"] = {"audit": audit}
            made["spec"]["trainer"]["determinism"] = "bitwise"
            made["spec"]["checkpoint"]["keep"] = STEPS // EVERY
            path = folder / f"{run}.json"
            path.write_text(json.dumps(made))
            trained, output = _ended("train", "--json", path)
            events = Counter(json.loads(line)["event"] for line in output.splitlines() if line.startswith("{"))
            if "corrupted" in events:
                yield {"run": run, "audits": events["audited"], "found by": "the audit", "exit code": trained}
                continue
            replayed, output = _ended("replay", "--json", path, "--from", EVERY, "--to", STEPS)
            if trained or not output.startswith("{"):
                yield {"run": run, "error": f"train ended with {trained}, replay with {replayed}"}
                continue
            found = json.loads(output)
            yield {
                "run": run,
                "audits": events["audited"],
                "found by": None if found["identical"] else "the replay",
                "exit code": replayed,
                "steps compared": found["comparedSteps"],
                "first different step": found.get("firstDifferentStep"),
                "state compared": found["stateCompared"],
            }


def _ended(*words: object) -> tuple[int, str]:
    command: Sequence[str] = [sys.executable, "-m", "halcyon.commands.main", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{done.stdout[-1000:]}{done.stderr[-1000:]}", file=sys.stderr)
    return done.returncode, done.stdout
