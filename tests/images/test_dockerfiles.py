"""The promises of the Dockerfiles that their text shows.

tests/cluster/test_images.py inspects the images themselves.
"""

import json
import re

import pytest

from halcyon_devcluster.dockerfile import copied_paths, declared_arguments, instructions
from halcyon_devcluster.images import REPOSITORY

IMAGES = ("operator", "trainer")


def text(image: str) -> str:
    return (REPOSITORY / "images" / image / "Dockerfile").read_text()


def final_stage(image: str) -> list[str]:
    lines = instructions(text(image))
    last = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
    return lines[last:]


@pytest.mark.parametrize("image", IMAGES)
def test_base_image_is_an_argument(image: str) -> None:
    assert "BASE_IMAGE" in declared_arguments(text(image))
    assert {line for line in instructions(text(image)) if line.startswith("FROM ")} <= {
        "FROM ${BASE_IMAGE}",
        "FROM ${BASE_IMAGE} AS lock",
        "FROM ${BASE_IMAGE} AS packages",
    }


@pytest.mark.parametrize("image", IMAGES)
def test_runs_as_a_number_that_is_not_root(image: str) -> None:
    assert "USER 65532:65532" in final_stage(image)


@pytest.mark.parametrize("image", IMAGES)
def test_the_process_receives_its_signals_directly(image: str) -> None:
    (entry,) = [line for line in final_stage(image) if line.startswith(("ENTRYPOINT", "CMD"))]
    assert json.loads(entry.removeprefix("ENTRYPOINT "))


@pytest.mark.parametrize("image", IMAGES)
def test_our_source_is_the_last_layer(image: str) -> None:
    assert final_stage(image)[-1] == "COPY --from=packages /packages /opt/halcyon/packages"
    earlier = [line for line in final_stage(image)[:-1] if line.startswith(("COPY", "ADD"))]
    assert not any(re.search(r" (crds|operator|trainer)/", line) for line in earlier)


@pytest.mark.parametrize(("image", "packages"), [("operator", "halcyon_operator"), ("trainer", "halcyon")])
def test_each_image_has_its_own_packages_only(image: str, packages: str) -> None:
    sources = [path for path in copied_paths(text(image)) if "/" in path and not path.startswith("images/")]
    assert sources == sorted(["crds/halcyon_api", f"{image}/{packages}"])


@pytest.mark.parametrize("image", IMAGES)
def test_dockerignore_admits_every_copied_path(image: str) -> None:
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in copied_paths(text(image)):
        assert path in allowed, f".dockerignore keeps {path} from images/{image}/Dockerfile"


def test_both_pin_the_uv_that_the_project_pins() -> None:
    (pinned,) = re.findall(r"^UV_VERSION := (\S+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for image in IMAGES:
        assert f"ARG UV_VERSION={pinned}" in instructions(text(image))
