"""The long convolutions of Hyena, and what a model without a cache and without attention refuses."""

from __future__ import annotations

from typing import Any

import haliax as hax
import jax
import numpy as np
import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.inference.engine import Engine
from halcyon.models.families.hyena import long_convolution
from halcyon_api.reading import parse_run
from halcyon_api.validation import find_problems
from tests.api.documents import document
from tests.families import SMALL_FAMILIES
from tests.trainer.models.cases import HYENA, make

LENGTH = 100
"""More than the positions that are added up one by one, and no power of two."""


@pytest.mark.parametrize("cuts", [None, (), (1, 37, 50, 97)], ids=["one", "one-by-halves", "several"])
def test_each_segment_is_convolved_alone(cuts: tuple[int, ...] | None) -> None:
    noise = np.random.default_rng(1)
    x, kernel = noise.standard_normal((2, 3, LENGTH), np.float32), noise.standard_normal((3, LENGTH), np.float32)
    ids = np.searchsorted(cuts or (), np.arange(LENGTH), "right").astype(np.int32)
    since, to = np.tril_indices(LENGTH)[::-1]
    matrix = np.zeros((3, LENGTH, LENGTH))
    matrix[:, to, since] = np.where(ids[to] == ids[since], kernel[:, to - since], 0)
    segments = None if cuts is None else hax.named(np.stack((ids, ids)), ("batch", "position"))
    given = hax.named(x, ("batch", "mlp", "position")), hax.named(kernel, ("mlp", "key_position"))
    found = jax.jit(long_convolution)(*given, segments).array
    np.testing.assert_allclose(found, np.einsum("cts,bcs->bct", matrix, x), atol=2e-5)


def test_a_model_without_a_cache_generates_no_text() -> None:
    with pytest.raises(BadConfiguration, match="HyenaDecoder keeps no cache, so it cannot generate text"):
        Engine(make(HYENA))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spec__mesh": {"ici": {"context": 2}}}, "spec.mesh.ici.context: a model of the family hyena needs whole"),
        ({"spec__trainer__dropout": {"attention": 0.1}}, "spec.trainer.dropout.attention: hyena has no attention"),
    ],
)
def test_what_needs_attention_is_refused(changes: dict[str, Any], sentence: str) -> None:
    hardware = {"type": "cpu", "topology": "1x4"}
    spec = parse_run(document(spec__model=SMALL_FAMILIES["hyena"], spec__accelerator=hardware, **changes)).spec
    assert sentence in " ".join(map(str, find_problems(spec)))
