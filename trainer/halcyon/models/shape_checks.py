"""Shape checks of Haliax in several threads.

While JAX takes trees of named arrays apart and puts them together again, the arrays may have other shapes for a moment,
so Haliax switches its shape checks off meanwhile. Its switch is one variable of the process. When one thread traces a
program and another one puts a tree together, one of them can switch the checks on for the other, which then fails on a
correct array. Until Haliax has a switch for each thread, this module gives it one.
"""

import contextlib
import threading
from collections.abc import Iterator

import haliax
import haliax.core


class _Switch(threading.local):
    enabled = True


_switch = _Switch()


@contextlib.contextmanager
def _enable_shape_checks(enabled: bool) -> Iterator[bool]:
    before = _switch.enabled
    _switch.enabled = enabled
    try:
        yield before
    finally:
        _switch.enabled = before


def _are_shape_checks_enabled() -> bool:
    return _switch.enabled


def check_shapes_by_thread() -> None:
    """Replace the switch of Haliax by one for each thread. May be called again."""
    haliax.core.enable_shape_checks = haliax.enable_shape_checks = _enable_shape_checks
    haliax.core.are_shape_checks_enabled = haliax.are_shape_checks_enabled = _are_shape_checks_enabled
