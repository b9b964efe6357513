"""Images: archives that every tool reads, loads that send only what is missing, and tags that change exactly when the
content changes.
"""

import io
import json
import tarfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from halcyon_devcluster import DevclusterError, loading
from halcyon_devcluster.dockerfile import (
    content_tag,
    copied_paths,
    declared_arguments,
    default_argument,
    passed_arguments,
)
from halcyon_devcluster.loading import full_name, local_archive
from halcyon_devcluster.machine import limit
from halcyon_devcluster.scratch import ScratchImage, archive
from halcyon_devcluster.sources import file_chunks, layout_folder, layout_stream, read_archive, references

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


@pytest.fixture
def layout(image: ScratchImage, tmp_path: Path) -> Path:
    """The image as an unpacked OCI layout."""
    folder = tmp_path / "layout"
    with tarfile.open(fileobj=io.BytesIO(archive(image))) as tar:
        tar.extractall(folder, filter="data")
    return folder


def manifest_of(layout: Path) -> dict[str, object]:
    return json.loads((layout / "index.json").read_text())["manifests"][0]


def test_equal_programs_give_equal_archives_with_name_and_id(image: ScratchImage, tmp_path: Path):
    path = tmp_path / "image.tar"
    path.write_bytes(archive(image))
    assert path.read_bytes() == archive(image)
    content = read_archive(path)
    assert content.name == image.name
    image.program.write_bytes(b"\x7fELF changed")
    path.write_bytes(archive(image))
    assert read_archive(path).image_id != content.image_id


def test_docker_and_oci_readers_see_the_same_image(image: ScratchImage, tmp_path: Path):
    whole, oci = tmp_path / "whole.tar", tmp_path / "oci.tar"
    whole.write_bytes(archive(image))
    with tarfile.open(whole) as source, tarfile.open(oci, "w") as target:
        for member in source:
            if member.name != "manifest.json":
                target.addfile(member, source.extractfile(member) if member.isfile() else None)
    assert read_archive(oci) == read_archive(whole)


def test_a_stream_leaves_out_the_blobs_that_the_node_has(layout: Path, tmp_path: Path):
    descriptor = manifest_of(layout)
    everything = references(layout, descriptor)
    target = tmp_path / "stream.tar"
    target.write_bytes(b"".join(layout_stream(layout, "localhost/halcyon/thing:new", descriptor, present=set())))
    with tarfile.open(target) as tar:
        assert set(tar.getnames()) == {
            "oci-layout",
            "index.json",
            *(f"blobs/{digest.replace(':', '/')}" for digest in everything),
        }
    assert read_archive(target).name == "localhost/halcyon/thing:new"
    target.write_bytes(
        b"".join(layout_stream(layout, "localhost/halcyon/thing:new", descriptor, present=set(everything)))
    )
    with tarfile.open(target) as tar:
        assert [name for name in tar.getnames() if name.startswith("blobs/")] == [
            f"blobs/{str(descriptor['digest']).replace(':', '/')}"
        ]


def test_two_loads_of_one_image_do_not_write_the_same_files(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second load begins while the first exports; it waits, and then finds the image on the node."""
    name, exports, second_began = "localhost/halcyon/thing:new", [], threading.Event()

    class Node:
        def __init__(self) -> None:
            self.images: dict[str, str] = {}

        def image_ids(self) -> dict[str, str]:
            return dict(self.images)

        def blobs(self) -> set[str]:
            return set()

        def import_archive(self, chunks: Iterable[bytes], name: str, image_id: str) -> None:
            assert sum(len(chunk) for chunk in chunks)
            self.images[name] = image_id

    class View:
        def say(self, sentence: str) -> None:
            second_began.set()

        def step(self, sentence: str) -> nullcontext[None]:
            return nullcontext()

    def export(name: str, folder: Path) -> dict[str, object]:
        exports.append(name)
        if len(exports) > 1:
            second_began.set()
        assert second_began.wait(limit(60))
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(layout)
        return manifest_of(layout)

    monkeypatch.setattr(loading, "buildah_image_id", lambda name: "sha256:1")
    monkeypatch.setattr(loading, "export_layout", export)
    node: Any = Node()
    view: Any = View()
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(loading.load_from_buildah, node, name, tmp_path / "images", view) for _ in range(2)]
        assert [load.result() for load in loads] == [name, name]
    assert exports == [name]
    assert node.images == {name: "sha256:1"}


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


def test_image_names_and_paths_are_distinguished(tmp_path: Path):
    (tmp_path / "pause-abc.tar").touch()
    assert local_archive("localhost/halcyon/pause:abc", tmp_path) == tmp_path / "pause-abc.tar"
    assert local_archive("localhost/halcyon/trainer:abc", tmp_path) is None
    assert local_archive("docker.io/other/pause:abc", tmp_path) is None
    assert local_archive("./x.tar", tmp_path) == Path("./x.tar")
    assert full_name("localhost:5000/a/b") == "localhost:5000/a/b:latest"
    assert full_name("a/b:c") == "a/b:c"
    assert layout_folder(tmp_path, "localhost/a/b:1") == layout_folder(tmp_path, "localhost/a/b:2")


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
