"""Images: archives that every tool reads, loads that send only what is missing, and tags that change exactly when the
content changes.
"""

import io
import json
import tarfile
from pathlib import Path

import pytest

from halcyon_devcluster import DevclusterError
from halcyon_devcluster.dockerfile import (
    content_tag,
    copied_paths,
    declared_arguments,
    default_argument,
    passed_arguments,
)
from halcyon_devcluster.scratch import ScratchImage
from halcyon_devcluster.sources import file_chunks, read_archive

DOCKERFILE = """\
# COPY nothing/here /
ARG BASE_IMAGE=python
FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL
ARG SSL_CERT_FILE
COPY --chown=1:1 pyproject.toml \\
     uv.lock /build/
RUN echo COPY not/this /
FROM ${BASE_IMAGE}
COPY --from=build /build /build
ADD src /src
"""


@pytest.fixture
def image(tmp_path: Path) -> ScratchImage:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF pretended")
    return ScratchImage("localhost/halcyon/thing:abc", program, "/thing", "amd64")


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({}, "neither manifest.json nor index.json"),
        ({"manifest.json": [{"Config": "a.json", "RepoTags": None, "Layers": []}]}, "save it by its name"),
        ({"index.json": {"manifests": [{"digest": "sha256:0"}]}}, "one image with a full name"),
    ],
    ids=["foreign", "nameless", "nameless oci"],
)
def test_an_archive_that_cannot_be_loaded_is_reported(members: dict[str, object], sentence: str, tmp_path: Path):
    path = tmp_path / "image.tar"
    with tarfile.open(path, "w") as tar:
        for name, document in members.items():
            content = json.dumps(document).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(DevclusterError, match=sentence):
        read_archive(path)


def test_a_file_that_is_not_an_archive_is_reported(tmp_path: Path):
    path = tmp_path / "image.tar"
    path.write_text("hello")
    with pytest.raises(DevclusterError, match="not an image archive"):
        read_archive(path)
    assert b"".join(file_chunks(path)) == b"hello"


def test_arguments_and_inputs_of_a_dockerfile():
    assert declared_arguments(DOCKERFILE) == {"BASE_IMAGE", "PIP_INDEX_URL", "SSL_CERT_FILE"}
    assert copied_paths(DOCKERFILE) == ["pyproject.toml", "src", "uv.lock"]
    assert default_argument(DOCKERFILE, "BASE_IMAGE") == "python"
    with pytest.raises(DevclusterError, match="gives ARG PIP_INDEX_URL no value"):
        default_argument(DOCKERFILE, "PIP_INDEX_URL")


def test_only_declared_settings_are_passed_on():
    environ = {
        "PIP_INDEX_URL": "https://index",
        "SSL_CERT_FILE": "/certs",
        "UV_INDEX": "other",
        "SECRET": "no",
        "PIP_CERT": "",
    }
    declared = declared_arguments(DOCKERFILE) | {"SECRET", "PIP_CERT"}
    assert passed_arguments(declared, environ, with_certificates=True) == {
        "PIP_INDEX_URL": "https://index",
        "SSL_CERT_FILE": "/certs",
    }
    assert passed_arguments(declared, environ, with_certificates=False) == {"PIP_INDEX_URL": "https://index"}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    for name in ("pyproject.toml", "uv.lock", "src/a.py", "src/deep/b.py", "unrelated.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def tag(context: Path, **build_args: str) -> str:
    return content_tag(context / "Dockerfile", context, build_args)


@pytest.mark.parametrize("changed", ["Dockerfile", "uv.lock", "src/deep/b.py", "src/new.py", ".dockerignore"])
def test_the_tag_changes_with_every_input(context: Path, changed: str):
    before = tag(context)
    path = context / changed
    path.write_text((path.read_text() if path.exists() else "") + "\n# changed\n")
    assert tag(context) != before


def test_the_tag_changes_with_arguments_names_and_modes(context: Path):
    assert len({tag(context), tag(context, A="1"), tag(context, A="2"), tag(context, B="1")}) == 4
    before = tag(context)
    (context / "src/a.py").chmod(0o755)
    executable = tag(context)
    (context / "src/a.py").rename(context / "src/c.py")
    assert len({before, executable, tag(context)}) == 3


def test_the_tag_ignores_files_that_are_not_in_the_image(context: Path):
    before = tag(context)
    (context / "unrelated.txt").write_text("changed")
    (context / "src/__pycache__").mkdir()
    (context / "src/__pycache__/a.pyc").write_text("byte code")
    (context / "src/a.py").touch()
    assert tag(context) == before


def test_a_missing_input_is_reported(context: Path):
    (context / "uv.lock").unlink()
    with pytest.raises(DevclusterError, match=r"uv\.lock .* does not exist"):
        tag(context)
