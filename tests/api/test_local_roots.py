"""On a laptop, a root is a folder with any name, written as a plain path."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from halcyon_api.base import InvalidRun
from halcyon_api.defaults.files import load_resolved
from halcyon_api.local_roots import real_root, root_address, with_root_addresses
from halcyon_api.reading import parse_run
from halcyon_api.spec.checkpoint import CheckpointSpec, normal_root, parse_root, parsed_root
from tests.api.documents import document


def test_paths_become_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    monkeypatch.setenv("HOME", "/home/ä")
    assert root_address("my runs/../ü") == "file:///tmp/ü"
    assert root_address("~/runs") == "file:///home/ä/runs"
    assert root_address("s3://bucket/run") == "s3://bucket/run"


def test_a_document_may_name_its_roots_by_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = document(spec__checkpoint={"root": "my runs/ü #1"}, spec__export={"everySteps": 1, "root": "/models/ü"})
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run), encoding="utf-8")
    spec = load_resolved(path).spec
    assert parse_root(spec.checkpoint.root).path == f"{tmp_path}/my runs/ü #1"
    assert spec.export is not None
    assert spec.export.root == "file:///models/ü"


@pytest.mark.parametrize(
    "found", [None, [], {"spec": 1}, {"spec": {"checkpoint": "x"}}, {"spec": {"data": {"cache": {"root": 7}}}}]
)
def test_what_is_no_path_stays(found: object) -> None:
    assert with_root_addresses(found) == found


@pytest.mark.parametrize(
    "root",
    [
        *("file:///a/../b", "file:///a/./b", "file:///", "file:///a\nb", "file:///a\x7f", "s3://bucket/ü"),
        *("az://account/box", "az://my-account/box/x", "az://account/Box/x", "az://account/../box/x", "az://a@b/box/x"),
    ],
)
def test_an_address_that_is_not_safe_is_rejected(root: str) -> None:
    assert parsed_root(root) is None


@pytest.mark.parametrize(
    ("root", "normal"),
    [
        ("file:///a/b", "file:///a/b"),
        ("file:////a//b/", "file:///a/b"),
        ("s3://bucket/x", "s3://bucket/x"),
        ("s3://bucket//x/y///", "s3://bucket/x/y"),
        ("gs://bucket/x/", "gs://bucket/x"),
        ("az://account//box/x//y/", "az://account/box/x/y"),
        ("s3://bucket/", "s3://bucket"),
        ("", ""),
    ],
)
def test_a_root_has_one_spelling(root: str, normal: str) -> None:
    assert normal_root(root) == normal == normal_root(normal)


@pytest.mark.parametrize(
    ("root", "address", "same"),
    [
        ("s3://own/run", "s3://other/x", True),
        ("gs://own/run", "s3://other/x", True),
        ("gs://own/run", "gs://other/x", False),
        ("az://own/box/run", "az://other/box/x", True),
        ("az://own/box/run", "s3://other/x", False),
        ("s3://own/run", "az://other/box/x", False),
    ],
)
def test_another_address_gets_the_endpoint_only_in_the_same_kind_of_store(root: str, address: str, same: bool) -> None:
    own = CheckpointSpec(root=root, endpoint="http://store:7070", region="here")
    assert own.settings_at(address) == (("http://store:7070", "here") if same else (None, None))


def test_a_link_of_this_machine_is_the_folder_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert real_root(f"file://{tmp_path}/link//x/") == real_root(f"file://{tmp_path}/real/x")
    assert real_root("s3://bucket/x/") == "s3://bucket/x"


@pytest.mark.parametrize("spelling", ["s3://bucket/x", "s3://bucket/x/", "s3://bucket//x", "s3://bucket/x//"])
@pytest.mark.parametrize("section", ["from", "export"])
def test_no_spelling_of_its_own_root_is_another_root(section: str, spelling: str) -> None:
    more = {"run": "base"} if section == "from" else {"everySteps": 1}
    run = document(**{"spec__checkpoint": {"root": "s3://bucket/x/"}, f"spec__{section}": {"root": spelling, **more}})
    with pytest.raises(InvalidRun, match=rf"{section}\.root is"):
        parse_run(run)
