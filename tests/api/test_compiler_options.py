"""The table of XLA's options: which hardware gets which, and that a user's flags win."""

from __future__ import annotations

import re

import pytest

from halcyon_api.generate import hardware_reference
from halcyon_api.hardware import TABLE
from halcyon_api.hardware.compiler import (
    COMPILER_OPTIONS,
    CompilerOption,
    Generation,
    generation_of,
    options_of,
    without_flags,
)
from halcyon_api.hardware.gpu import ARCHITECTURES

ROWS = (
    CompilerOption(("a",), True, ("cc9",), "reason", "source", several_devices=True),
    CompilerOption(("b",), 3, ("cc9", "v6e"), "reason", "source"),
    CompilerOption(("e",), True, ("v5p",), "reason", "source", one_block=True),
    CompilerOption(("c", "d"), "on", ("cc9",), "reason", "source", since=(0, 12)),
)


@pytest.mark.parametrize(
    ("kind", "capability", "generation"),
    [
        ("NVIDIA H200", "9.0", "cc9"),
        ("NVIDIA B300", "10.3", "cc10"),
        ("NVIDIA L4", "8.9", "cc8"),
        ("NVIDIA RTX PRO 6000", "12.0", "cc12"),
        ("Tesla V100", "7.0", None),
        ("TPU v6 lite", "", "v6e"),
        ("TPU v5 lite", "", "v5e"),
        ("TPU v5", "", "v5p"),
        ("TPU7x", "", "v7x"),
        ("cpu", "", None),
    ],
)
def test_a_device_has_a_generation(kind: str, capability: str, generation: Generation | None) -> None:
    assert generation_of(kind, capability) == generation


def test_each_row_with_a_compiler_has_a_generation() -> None:
    for row in TABLE.values():
        capability = ".".join(map(str, row.compute_capability or ()))
        expected = row.name if row.family == "tpu" else f"cc{capability.partition('.')[0]}" if capability else None
        assert {generation_of(kind, capability) for kind in row.device_kinds} <= {expected}, row.name
    asked = {name for row in COMPILER_OPTIONS for name in row.generations}
    assert asked <= {generation_of("", f"{major}.0") for major, _ in ARCHITECTURES} | set(TABLE)


def test_an_option_is_for_its_hardware_its_number_of_devices_its_jax_and_its_loops() -> None:
    assert options_of("cc9", devices=8, jax=(0, 12), rows=ROWS) == {"a": True, "b": 3, "c": "on", "d": "on"}
    assert options_of("cc9", devices=1, jax=(0, 12), rows=ROWS) == {"b": 3, "c": "on", "d": "on"}
    assert options_of("cc9", devices=1, jax=(0, 11), rows=ROWS) == {"b": 3}
    assert options_of("v6e", devices=8, jax=(0, 12), rows=ROWS) == {"b": 3}
    assert options_of("v5p", devices=8, jax=(0, 12), rows=ROWS) == {"e": True}
    assert options_of("v5p", devices=8, jax=(0, 12), unroll=2, rows=ROWS) == {}
    assert options_of(None, devices=8, jax=(0, 12), rows=ROWS) == {}


def test_a_flag_of_the_user_replaces_an_option_and_no_other() -> None:
    options = {"a": True, "b": 3}
    assert without_flags(options, {}) == options
    assert without_flags(options, {"XLA_FLAGS": "--xla_dump_to=/a --a=false"}) == {"b": 3}
    assert without_flags(options, {"LIBTPU_INIT_ARGS": "--b=4", "XLA_FLAGS": "--ab=1"}) == {"a": True}
    assert without_flags(options, {"XLA_FLAGS": "--a --b"}) == {}


def test_a_generation_has_each_option_once_and_none_that_is_left_out() -> None:
    pairs = [(option, name) for row in COMPILER_OPTIONS for option in row.names for name in row.generations]
    assert len(pairs) == len(set(pairs))
    section = hardware_reference.render().partition("Left out, although")[2].partition("\n## ")[0]
    left_out = set(re.findall(r"`(xla\w+)`", section))
    assert len(left_out) > 10
    assert not {option for option, _ in pairs} & left_out
