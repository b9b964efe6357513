"""The cluster's own images: one static program each, tagged with the hash of the program's build.

Equal tags therefore mean equal bytes, and an image whose name a node already has is not loaded again.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from halcyon_devcluster import programs
from halcyon_devcluster.binaries import Binaries, host_platform
from halcyon_devcluster.programs import Group
from halcyon_devcluster.scratch import ScratchImage, archive

REGISTRY = "localhost/halcyon"


@dataclass(frozen=True)
class OwnImage:
    """One of the cluster's own images.

    Attributes:
        group: The group of the program; the key of its build becomes the tag.
        program: Name of the program in the group.
        target: Path in the image where charts and manifests expect the program.
    """

    group: Group
    program: str
    target: str


PAUSE = OwnImage(programs.PAUSE, "pause", "/pause")
COREDNS = OwnImage(programs.COREDNS, "coredns", "/coredns")
JOBSET = OwnImage(programs.JOBSET, "jobset", "/manager")
KUEUE = OwnImage(programs.KUEUE, "kueue", "/manager")
VERSITYGW = OwnImage(programs.VERSITYGW, "versitygw", "/versitygw")
PROMETHEUS = OwnImage(programs.PROMETHEUS, "prometheus", "/prometheus")


def image_name(image: OwnImage, build_key: str) -> str:
    """Return the full name of an image whose program has the build key `build_key`. Pure."""
    return f"{REGISTRY}/{image.program}:{build_key.rpartition('-')[2]}"


def make(image: OwnImage, binaries: Binaries, images: Path) -> tuple[str, Path]:
    """Return the image's full name and its archive below `images`; build what is missing."""
    folder = binaries.folder(image.group)
    name = image_name(image, folder.name)
    path = images / f"{folder.name}.tar"
    if not path.is_file():
        images.mkdir(parents=True, exist_ok=True)
        _, arch = host_platform()
        temporary = path.with_suffix(f".{arch}.{os.getpid()}.partial")  # two processes may make it at once
        temporary.write_bytes(archive(ScratchImage(name, folder / image.program, image.target, arch)))
        temporary.rename(path)
    return name, path
