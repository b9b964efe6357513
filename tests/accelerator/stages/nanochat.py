"""One training step of the nanochat model of depth 12, bfloat16: Halcyon's with the document of `halcyon dial`, and the
original's.

The original runs under torch.compile with its own optimizer, and its own choice of attention (torch's, where its
kernels are not installed). Both compute attention over the whole sequence (pattern ``L``); a second row of Halcyon has
the windows of the usual pattern.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from halcyon.commands.dial import Choices, dial, document
from tests.accelerator.measure import Options
from tests.accelerator.peers import original
from tests.accelerator.rows import Row
from tests.accelerator.training import Training, spec_of


def rows(options: Options) -> Iterator[Row]:
    """Halcyon's rows, then the original's."""
    depth, length, batch, vocabulary = options.pick((12, 2048, 16, 32_768), (2, 64, 2, 512))
    for pattern in ("L", "SSSL"):
        found = dial(
            Choices(depth, length, vocabulary, window_pattern=pattern, batch_tokens=batch * length, steps=1000)
        )
        settings = document(found)["spec"]
        settings["optimizer"].pop("otherSchedules", None) if options.dry else None
        changes = ("data.attendAcrossDocuments=true", "trainer.remat=none")
        spec = spec_of(settings["model"], *changes, batch=batch, length=length, optimizer=settings["optimizer"])
        training = Training(spec, vocabulary)
        state, _, _ = training.run(training.initial(), 3)
        _, seconds, _ = training.run(state, options.pick(20, 3))
        middle = statistics.median(seconds)
        yield {
            "step": f"Halcyon, {pattern}",
            "attention": ", ".join(training.program.attention_choices),
            "compile s": training.compile_seconds,
            "step ms": middle * 1e3,
            "tokens/s": training.tokens / middle,
            "MFU": training.mfu(middle),
        }
        del state, training
    words = (depth, found.width, found.heads, length, batch, vocabulary, "L")
    with original(options, "nanochat_child.py", words) as peer:
        if peer is None:
            return
        taken = [sum(part[0] for part in peer.ask("muon").values()) for _ in range(options.pick(12, 3))][2:]
        yield {
            "step": "nanochat, L", "attention": "its own", "compile s": None, "step ms": statistics.median(taken) * 1e3,
            "tokens/s": batch * length / statistics.median(taken), "MFU": None,
        }  # fmt: skip
