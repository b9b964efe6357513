"""Keeps all tests of a file, or of an `xdist_group`, on one worker.

pytest-xdist 3.8 reads the group of a test behind the `@` of its node id. It sets that group through an attribute that
pytest 9.2 does not have, so no test is grouped, and no error is shown
(https://github.com/pytest-dev/pytest-xdist/issues/1386).
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def set_groups(items: Iterable[pytest.Item], config: pytest.Config) -> None:
    """In a worker of `--dist loadgroup`, add the group of each test to its node id: the group of its marker, else its
    file.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        marker = item.get_closest_marker("xdist_group")
        group = item.path.stem if marker is None else marker.args[0]
        item._id = type(item.id).parse(f"{item.nodeid}@{group}")
