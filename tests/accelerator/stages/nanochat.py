"""One training step of the nanochat model of depth 12, bfloat16: Halcyon's with the document of `halcyon dial`, and the
original's.

The original runs under torch.compile with its own optimizer, and its own choice of attention (torch's, where its
kernels are not installed). Both compute attention over the whole sequence (pattern ``L``); a second row of Halcyon has
the windows of the usual pattern.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from dataclasses import replace

from halcyon.commands.dial import Choices, dial, document
from tests.accelerator.measure import Options
from tests.accelerator.peers import original
from tests.accelerator.rows import Row
from tests.accelerator.training import Training, spec_of


def rows(options: Options) -> Iterator[Row]:
    """Halcyon's rows, then the original's."""
    depth, length, batch, vocabulary = options.pick((12, 2048, 16, 32_768), (2, 64, 2, 512))
    # Room for the original on the same card.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    choices = Choices(depth, length, vocabulary, window_pattern="L", batch_tokens=batch * length, steps=1000)
    found = dial(choices)
    words = (depth, found.width, found.heads, length, batch, vocabulary, "L", "muon")
    starting = original(options, "nanochat_child.py", words)  # compiles while Halcyon's programs are compiled
    trainings = {}
    for pattern in ("L", "SSSL"):
        settings = document(dial(replace(choices, window_pattern=pattern)))["spec"]
        settings["optimizer"].pop("otherSchedules", None) if options.dry else None
        changes = ("data.attendAcrossDocuments=true", "trainer.remat=none")
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
                "tokens/s": training.tokens / middle,
                "MFU": training.mfu(middle),
            }
        if peer is None:
            return
        taken = [sum(part[0] for part in peer.ask("muon").values()) for _ in range(options.pick(12, 3))][2:]
        yield {
            "step": "nanochat, L", "attention": "its own", "compile s": None, "step ms": statistics.median(taken) * 1e3,
            "tokens/s": batch * length / statistics.median(taken), "MFU": None,
        }  # fmt: skip
