"""The guarantees of the store that the checkpoint protocol needs, on a real folder and a real S3 gateway."""

from __future__ import annotations

import contextlib

import pytest

from halcyon.host.storage.failures import StoreFailure, clean, explain, from_tensorstore
from halcyon.host.storage.store import Store, kvstore_spec
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.checkpoint.helpers import Root
from tests.trainer.checkpoint.processes import Child

S3 = {"driver": "s3", "bucket": "bucket", "path": "run/", "use_conditional_write": True}
KEYS = {"AWS_ACCESS_KEY_ID": "the-key-id", "AWS_SECRET_ACCESS_KEY": "the-secret"}


def test_only_the_holder_of_the_newest_generation_can_swap(any_root: Root) -> None:
    store = Store(any_root.spec)
    missing = store.read("key")
    assert missing.data is None
    first = store.swap("key", b"one", missing.generation)
    assert first
    assert store.swap("key", b"stale", missing.generation) is None
    second = store.swap("key", b"two", first)
    assert second
    assert second != first
    assert store.swap("key", b"stale", first) is None
    assert store.read("key").data == b"two"
    with pytest.raises(ValueError, match="means no condition"):
        store.swap("key", b"any", b"")


def test_create_succeeds_once_and_again_with_the_same_content(any_root: Root) -> None:
    store = Store(any_root.spec)
    assert store.create("key", b"one")
    assert store.create("key", b"one")
    assert not store.create("key", b"two")


def test_the_tail_of_a_value_is_read_or_none_if_the_value_is_too_short(any_root: Root) -> None:
    store = Store(any_root.spec)
    store.write("key", b"0123456789")
    assert store.tail("key", 8) == b"89"
    assert store.tail("key", 9) == b"9"
    assert store.tail("key", 11) is None
    assert store.tail("none", 0) is None


def test_only_the_keys_below_a_prefix_are_listed_and_deleted(any_root: Root) -> None:
    store = Store(any_root.spec)
    for key in ("steps/a/x", "steps/a/data/y", "steps/a.bak/x", "steps/ab/x", "steps/b/x", "HEAD"):
        store.write(key, b"1")
    assert store.list("steps/a/") == ["steps/a/data/y", "steps/a/x"]
    store.delete_prefix("steps/a/")
    store.delete("steps/none")
    assert store.list("") == ["HEAD", "steps/a.bak/x", "steps/ab/x", "steps/b/x"]
    assert not (any_root.folder / "steps" / "a").exists()
    with pytest.raises(ValueError, match="ends with a slash"):
        store.delete_prefix("steps/a")


@pytest.mark.slow
def test_four_processes_that_swap_one_key_never_lose_a_count(any_root: Root) -> None:
    """Each increments the key until it has succeeded 25 times.

    If the store checked a condition by a read, two could win the same round.
    """
    count, wins = 4, 25
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child("race", any_root, wins=wins)) for _ in range(count)]
        assert [child.hear("ready") for child in children] == [{"event": "ready"}] * count
        for child in children:
            child.tell()
        assert [child.end() for child in children] == [0] * count
    assert Store(any_root.spec).read("race").data == str(count * wins).encode()


@pytest.mark.parametrize(
    ("document", "environment", "spec"),
    [
        (
            {"root": "file:///data/run/"},
            {},
            {"driver": "file", "path": "/data/run/", "file_io_locking": {"mode": "none"}},
        ),
        ({"root": "gs://bucket/team/run"}, KEYS, {"driver": "gcs", "bucket": "bucket", "path": "team/run/"}),
        ({"root": "s3://bucket/run"}, {}, S3),
        (
            {"root": "s3://bucket/run", "region": "eu-west-1"},
            KEYS,
            S3 | {"aws_region": "eu-west-1", "aws_credentials": {"type": "environment"}},
        ),
        (
            {"root": "s3://bucket/run", "endpoint": "http://store:7070"},
            {},
            S3 | {"endpoint": "http://store:7070", "aws_region": "us-east-1"},
        ),
    ],
)
def test_the_spec_for_tensorstore_follows_from_the_document(
    document: dict[str, str], environment: dict[str, str], spec: dict[str, object]
) -> None:
    rendered = kvstore_spec(CheckpointSpec.model_validate(document), environment)
    assert {name: value for name, value in rendered.items() if not name.endswith("_retries")} == spec
    assert not any(secret in str(rendered) for secret in KEYS.values())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "RESOURCE_EXHAUSTED: Error writing: /x [OS error 28: ENOSPC No space left on device] [source "
            "locations='a.cc:1']",
            "has no space left; free some or enlarge it "
            "(RESOURCE_EXHAUSTED: Error writing: /x [OS error 28: ENOSPC No space left on device])",
        ),
        ("UNAVAILABLE: timed out", "could not be reached; look at the store and the network (UNAVAILABLE: timed out)"),
        ("something odd", "could not be reached; look at the store and the network (UNKNOWN: something odd)"),
    ],
)
def test_a_failure_becomes_one_sentence(text: str, sentence: str) -> None:
    failure = from_tensorstore(ValueError(text))
    assert explain(failure, "s3://b/r") == f"checkpoint root s3://b/r {sentence}"


def test_credentials_are_removed_from_the_errors_of_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    raw = (
        "refused the-key-id the-secret\nGET http://b/?X-Amz-Credential=the-key-id%2F2026&X-Amz-Signature=abc, "
        "Signature=deadbeef " + "x" * 999
    )
    text = clean(raw)
    assert not any(secret in text for secret in (*KEYS.values(), "abc", "deadbeef"))
    assert "\n" not in text
    assert len(text) < 310


def test_a_lock_file_of_a_killed_writer_does_not_get_into_a_value(file_root: Root) -> None:
    store = Store(file_root.spec)
    file_root.folder.mkdir()
    for key in ("written", "swapped"):
        (file_root.folder / f"{key}.__lock").write_bytes(b"J" * 5000)
    store.write("written", b"short")
    assert store.swap("swapped", b"short", store.read("swapped").generation)
    assert (store.read("written").data, store.read("swapped").data) == (b"short", b"short")


def test_a_wait_that_is_abandoned_or_too_long_ends(s3_root: Root) -> None:
    unreachable = s3_root.spec.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(StoreFailure, match=r"DEADLINE_EXCEEDED: no answer within 0\.3 s"):
        Store(unreachable, timeout_seconds=0.3).read("HEAD")


def test_a_folder_is_no_bucket() -> None:
    sentence = explain(StoreFailure("NOT_FOUND", "none"), "file:///runs/ü")
    assert sentence.startswith("checkpoint root file:///runs/ü does not exist; create the folder, or correct")
