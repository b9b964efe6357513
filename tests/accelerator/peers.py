"""nanochat's original beside Halcyon: its processes, which run in turns with ours on the same card."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.accelerator.measure import ROOT, Options

sys.path.append(str(ROOT / "tests/bench"))
from step_turns import Peer

BENCH = Path(ROOT / "tests/bench")


def original(options: Options, child: str, words: Sequence[object]) -> contextlib.AbstractContextManager[Peer | None]:
    """A process of the original in bfloat16, on the card that torch sees; None without a checkout or an interpreter
    with torch. It starts at once; ``with`` waits until it has compiled.

    Args:
        options: The options of the stage.
        child: The script in tests/bench.
        words: Its arguments after the checkout.
    """
    if options.peer is None or options.torch is None:
        return contextlib.nullcontext()
    variables = {"NANOCHAT_DTYPE": "bfloat16", "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
    return Peer(options.torch, BENCH / child, (options.peer, *words), variables)
