"""Two threads may put trees of named arrays together at the same time."""

from __future__ import annotations

import threading

import haliax.core
import jax.numpy as jnp
import pytest
from haliax import NamedArray

import halcyon.models  # noqa: F401 - replaces the switch of Haliax
from tests.suite.limits import limit


def test_a_thread_does_not_switch_the_shape_checks_of_another_thread() -> None:
    inside, main_left = threading.Event(), threading.Event()
    errors: list[Exception] = []

    def put_together() -> None:
        with haliax.core.enable_shape_checks(False):
            inside.set()
            main_left.wait(limit(10))
            try:
                NamedArray(jnp.zeros((2, 3)), axis_names=("x",))
            except ValueError as error:
                errors.append(error)

    other = threading.Thread(target=put_together)
    with haliax.core.enable_shape_checks(False):
        other.start()
        assert inside.wait(limit(10))
    main_left.set()
    other.join()
    assert not errors
    with pytest.raises(ValueError, match="does not match"):
        NamedArray(jnp.zeros((2, 3)), axis_names=("x",))
