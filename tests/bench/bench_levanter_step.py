"""The time of a training step on CPU: Halcyon's and that of Levanter's trainer, in turns on one pinned processor.

Both train a small Llama of the same sizes (6.3 million parameters), float32, by AdamW with clipping, on random tokens,
each within its own version of JAX. Timed are whole steps of both trainers, without loading data: Halcyon's compiled
step with the check for divergence, and `Trainer.train_step` of Levanter without hooks. Levanter computes every block
again in the backward pass by default; the second case of Levanter switches that off, and so does less work than its
default. Halcyon's default keeps what blocks computed, too. Halcyon runs with large pages; Levanter runs in two
processes, one without large pages and one with them.

    python tests/bench/bench_levanter_step.py [--rounds 15]

Levanter runs in an environment of its own below ``HALCYON_CACHE``, which the first run makes with uv, because
`marin-levanter` is not a dependency of this project.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from step_turns import LARGE_PAGES, Halcyon, Peer, Sizes, in_turns, ratio, start_on_one_processor, table

from halcyon_devcluster.paths import cache_folder

CHILD = Path(__file__).with_name("levanter_step_child.py")
LEVANTER = "marin-levanter==0.2.227.dev40316220070"
PYTHON = "3.12"
"""The oldest Python version that Levanter supports."""


class Unavailable(Exception):
    """Levanter cannot be installed on this machine."""


def levanter_python() -> Path:
    """The interpreter of Levanter's environment, which is made if it is missing.

    Raises:
        Unavailable: The environment cannot be made.
    """
    cache = cache_folder(os.environ, Path.home())
    home = cache / f"levanter-{hashlib.sha256(f'{LEVANTER} {PYTHON}'.encode()).hexdigest()[:12]}"
    python, ready = home / "bin" / "python", home / ".ready"
    if not ready.exists():
        uv = shutil.which("uv") or next((str(path) for path in sorted(cache.glob("uv-*/bin/uv"))), None)
        if uv is None:
            raise Unavailable("uv is needed to make Levanter's environment: run make setup, or install uv")
        print(f"making an environment with {LEVANTER} in {home}", file=sys.stderr, flush=True)
        # A version of pyenv, or one that uv finds or downloads.
        interpreters = [*sorted((Path.home() / ".pyenv" / "versions").glob(f"{PYTHON}*/bin/python")), PYTHON]
        commands = [
            [uv, "venv", "--quiet", "--clear", "--python", str(interpreter), str(home)] for interpreter in interpreters
        ]
        if not any(subprocess.run(command, check=False).returncode == 0 for command in commands):
            raise Unavailable(
                f"Levanter needs Python {PYTHON}, which uv neither found nor could download; install it and try again"
            )
        install = [uv, "pip", "install", "--quiet", "--python", str(python), "--prerelease", "allow", LEVANTER]
        if subprocess.run(install, check=False).returncode:
            raise Unavailable(f"{LEVANTER} could not be installed")
        ready.touch()
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = (
        ("layers", 4),
        ("width", 256),
        ("mlp", 1024),
        ("heads", 4),
        ("length", 256),
        ("batch", 8),
        ("vocabulary", 4096),
        ("rounds", 15),
    )
    for name, default in defaults:
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    try:
        python = levanter_python()
    except Unavailable as why:
        print(f"not compared: {why}")
        return
    start_on_one_processor()
    sizes = Sizes(options.vocabulary, options.length, options.batch)
    model = {
        "numHiddenLayers": options.layers,
        "hiddenSize": options.width,
        "intermediateSize": options.mlp,
        "numAttentionHeads": options.heads,
    }
    halcyon = Halcyon({"family": "llama"} | model, sizes)
    words = [getattr(options, name) for name, _ in defaults[:-1]]
    usual = {"JAX_PLATFORMS": "cpu"}
    with Peer(python, CHILD, words, usual) as first, Peer(python, CHILD, words, usual | LARGE_PAGES) as second:
        print(f"levanter: {first.facts}")
        print(f"halcyon: {halcyon.parameters:,} parameters")
        peers = {"levanter": first, "levanter, huge pages": second}
        turns = {f"{peer}, {case}": child.turn(case) for peer, child in peers.items() for case in ("default", "kept")}
        found = in_turns({"halcyon": halcyon.step} | turns, options.rounds)
    print(table(found, sizes.tokens))
    for name in turns:
        print(f"halcyon / {name}: {ratio(found, ['halcyon'], [name])}")


if __name__ == "__main__":
    main()
