"""`halcyon`, which also says what JAX does with its persistent cache of compiled programs: one line on standard error for each event."""

from __future__ import annotations

import sys

import jax

from halcyon.cli.main import app


def _say(event: str, **about: object) -> None:
    del about
    if event.startswith("/jax/compilation_cache/cache_"):
        sys.stderr.write(f"{event.rpartition('/')[2]}\n")


jax.monitoring.register_event_listener(_say)
app()
