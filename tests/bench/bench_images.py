"""Sizes of the images, unpacked.

python tests/bench/bench_images.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from rich.console import Console

from halcyon_devcluster.commands import run
from halcyon_devcluster.engine import docker_answers
from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.paths import cache_folder
from halcyon_devcluster.progress import ConsoleProgress


def size(name: str, *, docker: bool) -> str:
    """The image's size as its builder reports it."""
    if docker:
        return f"{int(run(['docker', 'image', 'inspect', '--format', '{{.Size}}', name])) / 1e6:.0f} MB"
    return json.loads(run(["buildah", "images", "--json", name]))[0]["size"]


def main() -> None:
    progress, docker = ConsoleProgress(Console(stderr=True)), docker_answers()
    wanted = (
        [Buildable.OPERATOR, Buildable.TRAINER] if docker else [Buildable.BASE, Buildable.OPERATOR, Buildable.TRAINER]
    )
    for what in wanted:
        name = build(what, cache=cache_folder(os.environ, Path.home()), progress=progress)
        print(f"{what.value:10} {size(name, docker=docker):>8}  {name}")


if __name__ == "__main__":
    main()
