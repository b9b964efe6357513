"""A model that is divided among devices writes the texts that it writes on one."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import halcyon
from halcyon.host.errors import BadConfiguration
from halcyon.inference import Engine, Sampling
from halcyon.models import int8
from halcyon.parallel.axes import shardings
from halcyon.parallel.device_mesh import mesh_of, tensor_mesh, with_mesh
from tests.trainer.models.cases import FAMILIES, LLAMA, VOCAB, make, shapes
from tests.trainer.weights.folders import GOLDENS

_NOISE = np.random.default_rng(3)
_REQUESTS = [
    (_NOISE.integers(0, VOCAB.size, 3), Sampling(8, 0.0)),
    (_NOISE.integers(0, VOCAB.size, 20), Sampling(8, 1.0, seed=5)),
]


def _texts(engine: Engine) -> list[list[tuple[int, float]]]:
    numbers = [engine.submit(*request) for request in _REQUESTS]
    found: dict[int, list[tuple[int, float]]] = {number: [] for number in numbers}
    while engine.unfinished:
        for one in engine.step():
            found[one.sequence].append((one.id, one.log_prob))
    return [found[number] for number in numbers]


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("name", ["mistral", "llama", "gemma2", "nanochat", "mixtral"])
def test_a_divided_model_writes_the_same_texts(name: str) -> None:
    model = make.__wrapped__(FAMILIES[name], length=32)
    mesh = tensor_mesh("tensor=2")
    divided = jax.device_put(model, shardings(model, mesh))
    assert (mesh_of(model), mesh_of(divided)) == (None, mesh)
    engine = Engine(divided, slots=2)
    alone, together = _texts(Engine(model, slots=2)), _texts(engine)
    for text, expected in zip(together, alone, strict=True):
        assert [token for token, _ in text] == [token for token, _ in expected]
        np.testing.assert_allclose([value for _, value in text], [value for _, value in expected], rtol=1e-5, atol=1e-5)
    arrays = [x for group in engine._state.cache.groups.values() for x in group.arrays if group.entries]
    assert arrays
    assert all(
        x.addressable_shards[0].data.size == x.size // 2 for x in arrays
    )  # each device has the cache of its heads


@pytest.mark.slow
@pytest.mark.variant
def test_a_model_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "LEAST_WEIGHTS", 1)
    place, mesh = f"hf:{GOLDENS / 'qwen3'}", tensor_mesh("tensor=2")
    model, _ = halcyon.load(place, mesh=mesh)
    query: Any = model.blocks.stacked.attention.query.weight.array  # type: ignore[attr-defined]
    assert query.addressable_shards[0].data.size == query.size // 2
    small, _ = halcyon.load(place, mesh=mesh, dtype="int8")
    engine = Engine(small, slots=1, length=32)
    number = engine.submit([1, 2, 3], Sampling(4, temperature=0.0))
    text: list[int] = []
    while engine.unfinished:
        text += [one.id for one in engine.step() if one.sequence == number]
    whole, _ = halcyon.load(place, dtype="int8")
    logits = np.asarray(halcyon.logits(whole, np.asarray([[1, 2, 3, *text]])))[0]
    assert text == logits[2:-1].argmax(-1).tolist()


def test_a_mesh_that_does_not_fit_is_refused() -> None:
    with pytest.raises(
        BadConfiguration, match="--mesh data=2: only the axis tensor can divide a model that writes text; give tensor=N"
    ):
        tensor_mesh("data=2")
    with pytest.raises(
        BadConfiguration, match=r"--mesh tensor=64: this process has \d+ devices; give tensor=\d+ or less"
    ):
        tensor_mesh("tensor=64")
    with pytest.raises(
        BadConfiguration, match="--mesh: tensor=4 does not divide the 2 kv_heads of the model; give a divisor of 2"
    ):
        with_mesh(shapes(LLAMA), tensor_mesh("tensor=4"))
