"""What ``auto`` picks for a platform, a shape and a mask, and why a named implementation is refused."""

from __future__ import annotations

from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import pytest

from halcyon.models.parts.attention import attention
from halcyon.models.parts.attention_blocks import AttentionShape
from halcyon.models.parts.attention_choice import (
    CannotServe,
    Choice,
    Request,
    Target,
    attending,
    best,
    kernel_on,
    refusal,
)
from halcyon.models.parts.masks import Causal, Mask, Prefix, Segments, Window
from halcyon.parallel.partition import computing
from tests.trainer.support.meshes import mesh_of

CPU, TPU = Target("cpu"), Target("tpu")
HOPPER, AMPERE, BLACKWELL, DESKTOP, OLD = (
    Target("gpu", version) for version in ((9, 0), (8, 0), (10, 0), (12, 0), (7, 5))
)
ROCM = Target("gpu")


def request(
    length: int = 4096,
    *,
    keys: int | None = None,
    mask: Mask | None = None,
    dtype: Any = jnp.bfloat16,
    head: int = 128,
    value: int | None = None,
    cap: float | None = None,
    parts: int = 1,
    rows: bool = True,
) -> Request:
    position = hax.Axis("position", length)
    axes = (
        position,
        hax.Axis("key_position", keys or length),
        hax.Axis("head_size", head),
        hax.Axis("value", value or head),
    )
    return Request(AttentionShape(*axes, cap, 512), mask or Causal(), jnp.dtype(dtype), parts, rows)


IDS = hax.named(jnp.zeros((2, 4096), jnp.int32), ("batch", "position"))
SEGMENTS = Causal() & Segments(IDS)


@pytest.mark.parametrize(
    ("target", "wanted", "picked"),
    [
        (CPU, request(), "blockwise"),
        (CPU, request(1024), "reference"),
        (CPU, request(8191), "reference"),
        (CPU, request(8193), "blockwise"),
        (CPU, request(parts=2), "ring"),
        (TPU, request(parts=2), "ring"),
        (HOPPER, request(parts=2), "ring"),
        (TPU, request(), "splash"),
        (TPU, request(1024), "splash"),
        (TPU, request(mask=SEGMENTS, cap=50.0), "splash"),
        (TPU, request(mask=Causal() & Window(128) & Segments(IDS)), "splash"),
        (TPU, request(dtype=jnp.float32), "blockwise"),
        (TPU, request(mask=Causal() & Prefix(9)), "blockwise"),
        (TPU, request(100), "reference"),
        (HOPPER, request(), "tokamax"),
        (HOPPER, request(mask=Causal() & Window(128)), "tokamax"),
        (HOPPER, request(head=256), "tokamax"),
        (HOPPER, request(mask=SEGMENTS), "tokamax"),
        (HOPPER, request(8191, mask=Causal() & Window(128)), "tokamax"),
        (HOPPER, request(cap=50.0), "tokamax"),
        (HOPPER, request(head=192, value=128), "tokamax"),
        (HOPPER, request(dtype=jnp.float32), "blockwise"),
        (HOPPER, request(mask=Window(128)), "blockwise"),
        (HOPPER, request(mask=Causal() & Segments(IDS, IDS)), "blockwise"),
        (AMPERE, request(mask=SEGMENTS), "tokamax"),
        (AMPERE, request(cap=50.0), "blockwise"),
        (BLACKWELL, request(mask=SEGMENTS), "tokamax"),
        (BLACKWELL, request(head=256), "tokamax"),
        (BLACKWELL, request(head=256, cap=50.0), "blockwise"),
        (DESKTOP, request(), "tokamax"),
        (DESKTOP, request(mask=SEGMENTS), "blockwise"),
        (OLD, request(), "blockwise"),
        (ROCM, request(), "blockwise"),
    ],
)
def test_auto_picks(target: Target, wanted: Request, picked: str) -> None:
    choice = best(wanted, target)
    assert choice.implementation == picked, choice.reason
    assert refusal(choice.implementation, wanted, target) is None


@pytest.mark.parametrize(
    ("name", "target", "wanted", "reason"),
    [
        ("splash", CPU, request(), "it is a kernel for TPUs, and this is cpu"),
        ("splash", TPU, request(dtype=jnp.float32), "its products round float32 numbers to bfloat16"),
        ("splash", TPU, request(100), "100 queries and 100 keys are not multiples of 128"),
        ("splash", TPU, request(mask=Causal() & Prefix(9)), "it has no mask of this kind"),
        ("tokamax", CPU, request(), "it has kernels for NVIDIA GPUs, and this is cpu"),
        ("tokamax", ROCM, request(), "it has kernels for NVIDIA GPUs"),
        ("tokamax", OLD, request(), "on GPUs of compute capability 7.5, there is no kernel; one needs 8.0 or later"),
        ("tokamax", HOPPER, request(dtype=jnp.float32), "its products would round float32 numbers"),
        (
            "tokamax",
            AMPERE,
            request(cap=50.0),
            "on GPUs of compute capability 8.0, the Triton kernel has no soft cap of the scores",
        ),
        ("tokamax", AMPERE, request(131_072, mask=SEGMENTS), "its backward pass would keep a table of"),
        ("tokamax", DESKTOP, request(mask=SEGMENTS), "the Triton kernel neither keeps documents apart nor has windows"),
        ("tokamax", HOPPER, request(head=512), "the Mosaic GPU kernel computes heads of at most 256 features, not 512"),
        ("tokamax", HOPPER, request(keys=8192), "it has no mask of this kind"),
        ("tokamax", HOPPER, request(mask=Causal() & Segments(IDS, IDS)), "it has no mask of this kind"),
        ("ring", CPU, request(), "the mesh does not split positions; set mesh.ici.context"),
        ("ring", CPU, request(keys=8192, parts=2), "it needs one key for each query"),
        ("ring", CPU, request(parts=2, rows=False), "keys and values must have the rows of the queries"),
        ("blockwise", CPU, request(parts=4), "the mesh splits positions over 4 devices, which only ring serves"),
        ("reference", CPU, request(parts=4), "the mesh splits positions over 4 devices, which only ring serves"),
    ],
)
def test_a_refusal_has_its_reason(name: Any, target: Target, wanted: Request, reason: str) -> None:
    assert reason in (refusal(name, wanted, target) or "")


@pytest.mark.parametrize(
    ("target", "kernel"), [(HOPPER, "mosaic_gpu"), (BLACKWELL, "mosaic_gpu"), (AMPERE, "triton"), (DESKTOP, "triton")]
)
def test_each_generation_of_gpus_has_a_kernel(target: Target, kernel: str) -> None:
    assert kernel_on(request(), target).name == kernel


def test_without_the_package_auto_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halcyon.models.parts.tokamax_attention.is_there", lambda: False)
    choice = best(request(), HOPPER)
    assert choice.implementation == "blockwise"
    assert "the package tokamax is not installed: pip install '.[cuda]'" in choice.reason


def shape_of(position: int = 64) -> jax.ShapeDtypeStruct:
    """Trace one call of attention."""
    queries, size = hax.Axis("position", position), hax.Axis("head_size", 8)
    query = hax.zeros((hax.Axis("batch", 2), queries, size))
    key = query.rename({"position": "key_position"})
    return jax.eval_shape(lambda: attention(query, key, key, Causal()))


def test_the_context_decides_and_hears_the_choice() -> None:
    heard: list[Choice] = []
    with attending("blockwise", CPU, heard.append):
        shape_of()
    with attending("auto", CPU, heard.append):
        shape_of()
    with computing(mesh_of(context=2)), attending("auto", CPU, heard.append):
        shape_of()
    shape_of()
    assert [choice.implementation for choice in heard] == ["blockwise", "reference", "ring"]
    assert heard[0].reason == "the run names it"
    assert heard[2].reason == "the mesh splits positions over 2 devices"


def test_a_named_one_that_cannot_serve_is_refused_in_a_sentence() -> None:
    message = (
        "spec.trainer.attention: tokamax cannot compute this model's attention: it has kernels for NVIDIA GPUs, and "
        "this is cpu; use auto"
    )
    with attending("tokamax", CPU), pytest.raises(CannotServe, match=f"^{message}"):
        shape_of()


def test_the_target_of_a_device() -> None:
    class Gpu:
        platform, compute_capability = "gpu", "9.0"

    assert Target.of(jax.devices()[0]) == CPU
    assert Target.of(Gpu()) == HOPPER  # type: ignore[arg-type]
