"""HEAD in a real S3 gateway, read with the operator's own credentials."""

from __future__ import annotations

import asyncio
import threading

import pytest
from obstore.store import S3Store

from halcyon_api.checkpoint_documents import Head, decode_head, encode_head
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_operator.model.views import HeadAbsent, HeadFound, HeadReading, HeadUnreachable
from halcyon_operator.observe import checkpoints
from halcyon_operator.observe.checkpoints import Checkpoints
from halcyon_operator.run.metrics import Metrics
from tests.operator.builders import head
from tests.trainer.checkpoint.roots import Gateway, gateway

__all__ = ["gateway"]


def read(endpoint: str) -> HeadReading:
    checkpoints = Checkpoints(Metrics().head_reads, (endpoint,))
    return asyncio.run(checkpoints.read(CheckpointSpec(root="s3://bucket/runs/demo", endpoint=endpoint)))


def test_head_is_read_from_the_bucket(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    (gateway.folder / "bucket").mkdir(exist_ok=True)
    assert read(gateway.endpoint) == HeadAbsent()
    place = gateway.folder / "bucket" / "runs" / "demo"
    place.mkdir(parents=True)
    (place / "HEAD").write_bytes(encode_head(head(120, epoch=(3, 1)).head))
    assert read(gateway.endpoint) == head(120, epoch=(3, 1))


@pytest.fixture
def bucket(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    (gateway.folder / "bucket").mkdir(exist_ok=True)
    return S3Store(
        "bucket", config={"endpoint": gateway.endpoint, "region": "us-east-1"}, client_options={"allow_http": True}
    )


def test_a_head_that_is_as_before_is_not_decoded_again(gateway: Gateway, bucket: S3Store) -> None:
    reader, spec = (
        Checkpoints(Metrics().head_reads, (gateway.endpoint,)),
        CheckpointSpec(root="s3://bucket/again", endpoint=gateway.endpoint),
    )

    async def story() -> None:
        bucket.put("again/HEAD", encode_head(head(120).head))
        first = await reader.read(spec)
        assert first == head(120)
        assert await reader.read(spec) is first
        bucket.put("again/HEAD", encode_head(head(121).head))
        assert await reader.read(spec) == head(121)
        bucket.delete("again/HEAD")
        assert await reader.read(spec) == HeadAbsent()

    asyncio.run(story())


def test_a_large_head_is_decoded_in_a_thread_and_a_larger_one_is_refused(
    gateway: Gateway, bucket: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def noted(body: bytes) -> Head:
        threads.append(threading.current_thread().name)
        return decode_head(body)

    monkeypatch.setattr(checkpoints, "decode_head", noted)
    small = head(1).head
    large = small.model_copy(update={"deleting": tuple(f"steps/{number:012d}.000001.x/" for number in range(1000))})
    assert len(encode_head(small)) < checkpoints.SMALL_HEAD_BYTES < len(encode_head(large))

    async def story() -> None:
        reader = Checkpoints(Metrics().head_reads, (gateway.endpoint,))
        for name, content in (("small", encode_head(small)), ("large", encode_head(large)), ("huge", b" " * 2**21)):
            bucket.put(f"{name}/HEAD", content)
        readings = [
            await reader.read(CheckpointSpec(root=f"s3://bucket/{name}", endpoint=gateway.endpoint))
            for name in ("small", "large", "huge")
        ]
        assert readings[:2] == [HeadFound(small), HeadFound(large)]
        assert isinstance(readings[2], HeadUnreachable)
        assert "its HEAD has 2,097,152 bytes" in readings[2].reason

    asyncio.run(story())
    assert threads[0] == threading.current_thread().name
    assert threads[1].startswith("halcyon-head-decoder")
    assert len(threads) == 2


def test_wrong_credentials_make_the_root_unreachable(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "stranger")
    (gateway.folder / "bucket").mkdir(exist_ok=True)
    reading = read(gateway.endpoint)
    assert isinstance(reading, HeadUnreachable)
    assert "XAdminUserNotFound" in reading.reason


def test_a_missing_bucket_makes_the_root_unreachable(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    spec = CheckpointSpec(root="s3://no-such-bucket/demo", endpoint=gateway.endpoint)
    reading = asyncio.run(Checkpoints(Metrics().head_reads, (gateway.endpoint,)).read(spec))
    assert isinstance(reading, HeadUnreachable)
    assert "NoSuchBucket" in reading.reason
