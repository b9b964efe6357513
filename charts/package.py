"""Package the chart for a release, with the images of the release as default values, so that `helm install` needs no
values.

    python3 charts/package.py --operator IMAGE --trainer IMAGE --destination FOLDER [--chart FOLDER] [--helm PROGRAM]

IMAGE is `REPOSITORY:TAG`, `REPOSITORY@DIGEST` or both; a digest overrides the tag. Needs only Python and Helm.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHART = Path(__file__).resolve().parent / "halcyon"
IMAGE = re.compile(r"(?P<repository>[\w.:/-]+?)(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?")


class PackagingError(ValueError):
    """An argument is not valid, or Helm failed; the message is one sentence."""


def parts(image: str) -> dict[str, str]:
    """Return `repository`, `tag` and `digest` of an image; a missing part is empty. Pure.

    Raises:
        PackagingError: The text is not the name of an image, or has neither tag nor digest, so that the image could
            change later.
    """
    found = IMAGE.fullmatch(image)
    if found is None:
        raise PackagingError(f"{image!r} is not an image: give REPOSITORY:TAG or REPOSITORY@sha256:DIGEST")
    named = {part: text or "" for part, text in found.groupdict().items()}
    if not (named["tag"] or named["digest"]):
        raise PackagingError(f"{image} has neither a tag nor a digest: give REPOSITORY:TAG or REPOSITORY@sha256:DIGEST")
    return named


def with_image(values: str, section: str, image: str) -> str:
    """Return the text of values.yaml with another image in a section; all other lines are unchanged. Pure.

    Raises:
        PackagingError: The text has no such section, or the section does not have each field of an image exactly once.
    """
    block = re.search(rf"^{section}:\n(?:(?: .*)?\n)*?(?=\S|\Z)", values, re.MULTILINE)
    if block is None:
        raise PackagingError(f"values.yaml has no section {section}")
    text = block[0]
    for part, value in parts(image).items():
        text, count = re.subn(rf'^  {part}: ".*"$', f'  {part}: "{value}"', text, flags=re.MULTILINE)
        if count != 1:
            raise PackagingError(f"values.yaml: section {section} has {count} lines of {part}, not one")
    return values[: block.start()] + text + values[block.end() :]


def package(chart: Path, operator: str, trainer: str, destination: Path, helm: str) -> None:
    """Package a copy of a chart with these images into a folder; prints Helm's output. The chart's own files do not
    change.

    Raises:
        PackagingError: An image is not valid, or Helm is not installed or failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(chart, Path(folder) / chart.name)
        values = (copy / "values.yaml").read_text(encoding="utf-8")
        for section, image in (("image", operator), ("trainerImage", trainer)):
            values = with_image(values, section, image)
        (copy / "values.yaml").write_text(values, encoding="utf-8")
        try:
            subprocess.run([helm, "package", str(copy), "--destination", str(destination)], check=True)
        except OSError as error:
            raise PackagingError(
                f"{helm} does not run ({error.strerror}): install Helm, or give --helm PROGRAM"
            ) from None
        except subprocess.CalledProcessError:
            raise PackagingError("Helm made no package; its message is above") from None


def main(words: list[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Package the chart with the images that belong to it.")
    parser.add_argument("--operator", required=True, metavar="IMAGE", help="the operator's image")
    parser.add_argument("--trainer", required=True, metavar="IMAGE", help="the image of runs without spec.image")
    parser.add_argument("--destination", required=True, type=Path, metavar="FOLDER", help="folder for the package")
    parser.add_argument(
        "--chart", default=CHART, type=Path, metavar="FOLDER", help="the chart (default: that of this repository)"
    )
    parser.add_argument(
        "--helm", default="helm", metavar="PROGRAM", help="the Helm program (default: that on the PATH)"
    )
    given = parser.parse_args(words)
    try:
        package(given.chart, given.operator, given.trainer, given.destination, given.helm)
    except PackagingError as why:
        sys.exit(f"error: {why}")


if __name__ == "__main__":
    main(sys.argv[1:])
