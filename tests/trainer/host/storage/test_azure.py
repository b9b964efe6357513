"""Roots in Azure Blob Storage: the abilities that they must have, their refusals, and the operator's reading."""

from __future__ import annotations

import asyncio
import time

import pytest

from halcyon.data.sources.access import Access, parse_address
from halcyon.data.sources.remote import list_prefix
from halcyon.host.storage.abilities import test_abilities as each_ability
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import encode_head
from halcyon_operator.model.views import HeadAbsent, HeadUnreachable
from halcyon_operator.observe.checkpoints import Checkpoints
from halcyon_operator.run.metrics import Metrics
from tests.operator.builders import head
from tests.trainer.checkpoint.helpers import Root

pytestmark = [pytest.mark.slow, pytest.mark.variant]


def test_a_container_has_all_abilities_of_a_root(azure_root: Root) -> None:
    abilities = list(each_ability(Store(azure_root.spec), "word", time.monotonic))
    assert len(abilities) == 4
    assert [one.problem for one in abilities] == [None] * 4


@pytest.mark.parametrize(
    ("key", "container", "code"),
    [("c3RyYW5nZXI=", None, "PERMISSION_DENIED"), (None, "missing", "NOT_FOUND")],
)
def test_a_refusal_has_its_code_and_shows_no_key(
    azure_root: Root, monkeypatch: pytest.MonkeyPatch, key: str | None, container: str | None, code: str
) -> None:
    if key is not None:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", key)
    spec = azure_root.spec
    if container is not None:
        spec = spec.model_copy(update={"root": f"az://halcyon/{container}/run"})
    with pytest.raises(StoreFailure) as caught:
        Store(spec).write("key", b"value")
    assert caught.value.code == code
    assert "Signature" not in str(caught.value)


def test_the_operator_reads_head_and_a_source_is_listed(azure_root: Root) -> None:
    spec = azure_root.spec
    reader = Checkpoints(Metrics().head_reads, (spec.endpoint or "",))

    async def story() -> None:
        assert await reader.read(spec) == HeadAbsent()
        found = head(120)
        Store(spec).write("HEAD", encode_head(found.head))
        first = await reader.read(spec)
        assert first == found
        assert await reader.read(spec) is first
        missing = await reader.read(spec.model_copy(update={"root": "az://halcyon/missing/run"}))
        assert missing == HeadUnreachable("there is no such container (ContainerNotFound)")

    asyncio.run(story())
    Store(spec).write("texts/a.txt", b"text")
    found = list(list_prefix(parse_address(f"{spec.root}/texts"), Access(endpoint=spec.endpoint)))
    assert [(one.uri, one.size_bytes) for one in found] == [(f"{spec.root}/texts/a.txt", 4)]
