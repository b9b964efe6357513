"""One training step of the nanochat model of depth 12, bfloat16: Halcyon's with the document of `halcyon dial`, and the
original's.

The original runs under torch.compile with its own optimizer, and its own choice of attention (torch's, where its
kernels are not installed). Each is measured with attention over the whole sequence (pattern ``L``), and with the
windows of the usual pattern (``SSSL``).
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from dataclasses import replace

from halcyon.commands.dial import Choices, dial, document
from tests.accelerator.measure import Options
from tests.accelerator.peers import Peer, original
from tests.accelerator.rows import Row
from tests.accelerator.training import Training, spec_of

PATTERNS = ("L", "SSSL")


def rows(options: Options) -> Iterator[Row]:
    """Halcyon's rows, then the original's."""
    depth, length, batch, vocabulary = options.pick((12, 2048, 16, 32_768), (2, 64, 2, 512))
    # Room for the original on the same card.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    choices = Choices(depth, length, vocabulary, window_pattern="L", batch_tokens=batch * length, steps=1000)
    found = dial(choices)
    sizes = (depth, found.width, found.heads, length, batch, vocabulary)
    starting = original(options, "nanochat_child.py", (*sizes, "L", "muon"))  # compiles while Halcyon's are compiled
    trainings = {}
    for pattern in PATTERNS:
        settings = document(dial(replace(choices, window_pattern=pattern)))["spec"]
        settings["optimizer"].pop("otherSchedules", None) if options.dry else None
        changes = ("data.attendAcrossDocuments=true", "trainer.remat=none", "trainer.unroll=auto")
        spec = spec_of(settings["model"], *changes, batch=batch, length=length, optimizer=settings["optimizer"])
        trainings[pattern] = Training(spec, vocabulary)
    with starting as peer:
        for pattern, training in trainings.items():
            state, _, _ = training.run(training.initial(), 3)
            _, seconds, _ = training.run(state, options.pick(20, 3))
            del state
            middle = statistics.median(seconds)
            yield {
                "step": f"Halcyon, {pattern}",
                "attention": ", ".join(training.program.attention_choices),
                "compile s": training.compile_seconds,
                "step ms": middle * 1e3,
                "planned ms": None if (planned := training.planned_seconds()) is None else planned * 1e3,
                "tokens/s": training.tokens / middle,
                "MFU": training.mfu(middle),
            }
        if peer is not None:
            yield _theirs(peer, "L", batch * length, options)
    with original(options, "nanochat_child.py", (*sizes, "SSSL", "muon")) as peer:
        if peer is not None:
            yield _theirs(peer, "SSSL", batch * length, options)


def _theirs(peer: Peer, pattern: str, tokens: int, options: Options) -> Row:
    """The row of the original, from some of its steps."""
    taken = [sum(part[0] for part in peer.ask("muon").values()) for _ in range(options.pick(12, 3))][2:]
    middle = statistics.median(taken)
    return {
        "step": f"nanochat, {pattern}", "attention": "its own", "compile s": None, "step ms": middle * 1e3,
        "planned ms": None, "tokens/s": tokens / middle, "MFU": None,
    }  # fmt: skip
