"""``hf://OWNER/NAME``: downloaded by ``huggingface_hub`` with its token and its cache; the network is used for such
names only.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from typer.testing import CliRunner

import halcyon
from halcyon.commands.main import app
from halcyon.host.errors import BadConfiguration, DataUnreachable
from halcyon.weights.model_file import read_model
from tests.trainer.weights.folders import exported, llama_tensors, same_bits, write_folder
from tests.web import Handler, serving

COMMIT = "a" * 40


@dataclass
class Hub:
    """A server with the hub's API and one model, owner/tiny, which needs a token."""

    folder: Path
    asked: list[str] = field(default_factory=list)
    """Files that were downloaded."""

    def answer(self, path: str, token: str | None) -> tuple[int, bytes, dict[str, str]]:
        if not path.startswith(("/api/models/owner/tiny", "/owner/tiny/resolve/")):
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        if token != "Bearer secret":  # noqa: S105 - of this test
            return 401, b"{}", {"X-Error-Code": "GatedRepo"}
        if path.startswith("/api/models/owner/tiny/tree/"):
            files = [
                {"type": "file", "path": one.name, "oid": _etag(one), "size": one.stat().st_size}
                for one in sorted(self.folder.iterdir())
            ]
            return 200, json.dumps(files).encode(), {}
        if path.startswith("/api/models/"):
            return 200, json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": []}).encode(), {}
        file = self.folder / path.rsplit("/", 1)[1]
        self.asked.append(file.name)
        return 200, file.read_bytes(), {"etag": f'"{_etag(file)}"', "x-repo-commit": COMMIT}

    network: ExitStack = field(default_factory=ExitStack)

    def stop(self) -> None:
        """End the server: from now on there is no network."""
        self.network.close()


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()  # noqa: S324 - as git does


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = write_folder(tmp_path / "published", llama_tensors())
    (folder / "pytorch_model.bin").write_bytes(b"the same weights in a format that is not read")
    hub = Hub(folder)

    class Answers(Handler):
        def get(self) -> None:
            status, body, headers = hub.answer(unquote(urlparse(self.path).path), self.headers.get("authorization"))
            self.answer(status, body, {"content-type": "application/json", **headers})

    endpoint = f"http://{hub.network.enter_context(serving(Answers))}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    try:
        yield hub
    finally:
        hub.stop()


def test_a_model_is_imported_with_the_hubs_token_and_comes_from_its_cache_later(hub: Hub, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["import", "hf", "hf://owner/tiny", "--root", str(tmp_path / "root")])
    assert done.exit_code == 0, done.output
    assert same_bits(exported(tmp_path / "root", tmp_path / "out"), llama_tensors())
    assert set(hub.asked) == {"config.json", "model.safetensors"}
    kept = json.loads((tmp_path / "root" / "huggingface" / "config.json").read_text())
    assert kept["_name_or_path"] == "hf://owner/tiny", "an exported adapter names its base by it"
    hub.stop()
    model, _ = halcyon.load("hf://owner/tiny")
    assert model.vocab.size == 70


def test_a_document_needs_only_the_config_of_a_model_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    assert read_model("hf://owner/tiny@main", tmp_path)["hiddenSize"] == 8
    assert set(hub.asked) == {"config.json"}


@pytest.mark.parametrize(
    ("name", "token", "error"), [("owner/other", "secret", BadConfiguration), ("owner/tiny", "wrong", DataUnreachable)]
)
def test_a_model_that_the_hub_does_not_give_is_one_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str, token: str, error: type[Exception]
) -> None:
    """Access may be denied for a time; a model that does not exist is a mistake in the document."""
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(error, match=rf"^hf://{name} could not be downloaded \(\w+: [^\n]+\)$"):
        halcyon.load(f"hf://{name}")


def test_a_hub_that_does_not_answer_may_answer_later(hub: Hub) -> None:
    hub.stop()
    with pytest.raises(DataUnreachable, match=r"^hf://owner/tiny could not be downloaded"):
        halcyon.load("hf://owner/tiny")


def test_without_the_package_a_name_of_the_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        BadConfiguration,
        match=r"^hf://owner/tiny needs the package huggingface_hub: `pip install huggingface_hub`; or give a directory",
    ):
        halcyon.load("hf://owner/tiny")


def test_a_name_without_a_scheme_is_a_directory_and_uses_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BadConfiguration,
        match=r"there is no folder owner/tiny; give that of a model; a model of the Hugging Face hub is hf://owner/tiny",
    ):
        halcyon.load("hf:owner/tiny")
    write_folder(tmp_path / "owner" / "tiny", llama_tensors())
    model, _ = halcyon.load("hf:owner/tiny")
    assert model.vocab.size == 70
