"""`halcyon` that also writes each event of JAX's persistent compilation cache to stderr, one per line."""

from __future__ import annotations

import sys

import jax

from halcyon.commands.main import app


def _say(event: str, **about: object) -> None:
    del about
    if event.startswith("/jax/compilation_cache/cache_"):
        sys.stderr.write(f"{event.rpartition('/')[2]}\n")


jax.monitoring.register_event_listener(_say)
app()
