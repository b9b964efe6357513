"""`halcyon` that also writes each event of JAX's persistent compilation cache to stderr, one per line."""

from __future__ import annotations

import math
import sys

import jax

from halcyon.commands.main import app
from halcyon.run import own_work


def _say(event: str, **about: object) -> None:
    del about
    if event.startswith("/jax/compilation_cache/cache_"):
        sys.stderr.write(f"{event.rpartition('/')[2]}\n")


own_work._FIRST_SECONDS = math.inf  # its program would be one more, in a run that happens to last longer than this
jax.monitoring.register_event_listener(_say)
app()
