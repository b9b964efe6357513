"""HEAD in a real S3 gateway, read with the operator's own credentials."""

from __future__ import annotations

import asyncio
import time

import pytest

from halcyon_api.checkpoint_documents import encode_head
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_operator.checkpoints import Checkpoints
from halcyon_operator.metrics import Metrics
from halcyon_operator.views import HeadAbsent, HeadReading, HeadUnreachable
from tests.operator.builders import head
from tests.trainer.checkpoint.roots import Gateway, gateway

__all__ = ["gateway"]


def read(endpoint: str) -> HeadReading:
    checkpoints = Checkpoints(Metrics(), time.monotonic)
    return asyncio.run(checkpoints.read(CheckpointSpec(root="s3://bucket/runs/demo", endpoint=endpoint)))


def test_head_is_read_where_it_is(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    (gateway.folder / "bucket").mkdir(exist_ok=True)
    assert read(gateway.endpoint) == HeadAbsent()
    place = gateway.folder / "bucket" / "runs" / "demo"
    place.mkdir(parents=True)
    (place / "HEAD").write_bytes(encode_head(head(120, epoch=(3, 1)).head))
    assert read(gateway.endpoint) == head(120, epoch=(3, 1))


def test_wrong_credentials_are_no_error_but_out_of_reach(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "stranger")
    (gateway.folder / "bucket").mkdir(exist_ok=True)
    reading = read(gateway.endpoint)
    assert isinstance(reading, HeadUnreachable)
    assert "XAdminUserNotFound" in reading.reason


def test_a_bucket_that_is_not_there_is_out_of_reach_too(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    reading = asyncio.run(
        Checkpoints(Metrics(), time.monotonic).read(CheckpointSpec(root="s3://no-such-bucket/demo", endpoint=gateway.endpoint))
    )
    assert isinstance(reading, HeadUnreachable)
    assert "NoSuchBucket" in reading.reason
