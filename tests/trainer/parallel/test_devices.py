"""Products of 8 bits and less are rejected on devices that are not faster in them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.parallel.devices import check_narrow
from halcyon_api.hardware.kinds import NarrowType
from halcyon_api.spec.trainer import PrecisionSpec


def gpu(capability: str) -> Any:
    return SimpleNamespace(platform="gpu", device_kind=f"GPU {capability}", compute_capability=capability)


def tpu(kind: str) -> Any:
    return SimpleNamespace(platform="tpu", device_kind=kind)


CPU = SimpleNamespace(platform="cpu", device_kind="cpu")


@pytest.mark.parametrize(
    ("products", "device", "accepted"),
    [
        ("float8", gpu("9.0"), True),
        ("float8", gpu("8.9"), True),
        ("float8", gpu("8.0"), False),
        ("float8", gpu("10.3"), True),
        ("int8", gpu("8.0"), True),
        ("int8", gpu("7.0"), False),
        ("int8", gpu("10.3"), False),
        ("int8", gpu("12.0"), True),
        ("float8", gpu(""), False),
        ("int8", tpu("TPU v5 lite"), True),
        ("int8", tpu("TPU v4"), False),
        ("int8", tpu("TPU7x"), False),
        ("float8", tpu("TPU7x"), True),
        ("float8", tpu("TPU v6 lite"), False),
        ("float8", CPU, False),
        ("int8", CPU, False),
        ("mxfp8", gpu("10.0"), True),
        ("nvfp4", gpu("10.3"), True),
        ("mxfp8", gpu("9.0"), False),
        ("nvfp4", gpu("12.0"), False),
        ("mxfp8", tpu("TPU7x"), False),
        ("nvfp4", CPU, False),
        (None, CPU, True),
    ],
)
def test_only_devices_that_are_faster_are_accepted(products: NarrowType | None, device: Any, accepted: bool) -> None:
    precision = PrecisionSpec(products=products)
    if accepted:
        check_narrow(precision, [device])
        return
    with pytest.raises(BadConfiguration) as refused:
        check_narrow(precision, [device])
    assert str(refused.value).startswith(
        f"spec.trainer.precision.products: {products} needs a device that is faster in it, and JAX sees "
    )


def test_every_device_counts() -> None:
    with pytest.raises(BadConfiguration):
        check_narrow(PrecisionSpec(products="float8"), [gpu("9.0"), gpu("8.0")])
