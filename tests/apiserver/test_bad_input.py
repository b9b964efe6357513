"""The API server's reaction to unusual edits: very long texts, and fields and versions of a later release."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from halcyon_devcluster import DevclusterError
from halcyon_devcluster.control_plane import ControlPlane
from tests.api.documents import document
from tests.apiserver.api import Api, Refused

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LONG = 10_000


@pytest.fixture(scope="module")
def stored(api: Api, make_namespace: Callable[[], str]) -> str:
    """A namespace with the minimal run in it."""
    namespace = make_namespace()
    api.create(document(), namespace)
    return namespace


@pytest.mark.parametrize("path", ["image", "checkpoint.root", "accelerator.topology", "scheduling.serviceAccountName"])
def test_long_texts_are_rejected_in_a_short_message(api: Api, stored: str, path: str) -> None:
    node: Any = "x" * LONG
    for part in reversed(path.split(".")):
        node = {part: node}
    with pytest.raises(Refused) as refused:
        api.patch(document(), {"spec": node}, stored)
    assert f"spec.{path}: Too long: may not be more than" in str(refused.value)


def test_fields_of_a_later_version_are_rejected_or_dropped(api: Api, api_server: ControlPlane, namespace: str) -> None:
    def apply(run: dict[str, Any], *arguments: str) -> str:
        return api_server.kubectl(
            "apply", "--namespace", namespace, "--filename=-", *arguments, stdin=yaml.safe_dump(run)
        )

    apply(document())
    later = document(spec__federation={"clusters": ["a"]}, spec__suspend=True)
    with pytest.raises(DevclusterError, match=r'unknown field "spec\.federation"'):
        apply(later)
    apply(later, "--validate=ignore")
    spec = api.get(later, namespace)["spec"]
    assert (spec["suspend"], "federation" in spec) == (True, False)
    with pytest.raises(DevclusterError, match=r'no matches for kind "TrainingRun" in version "halcyon\.dev/v1beta1"'):
        apply(later | {"apiVersion": "halcyon.dev/v1beta1"})
