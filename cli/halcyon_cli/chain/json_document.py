"""A report card as JSON, for programs. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from halcyon_cli.chain.original import ROWS
from halcyon_cli.chain.reading import Chain
from halcyon_cli.chain.stage import Stage, cost_of, seconds_of


def document(chain: Chain, price: float | None) -> dict[str, Any]:
    """The chain as JSON, for programs."""
    return {
        "stages": [_stage_document(stage, price) for stage in chain.stages],
        "seconds": seconds_of(chain.stages).document(),
        "chipHours": math.fsum(stage.chip_hours or 0.0 for stage in chain.stages),
        "cost": cost_of(chain.stages, price),
        "original": [
            {
                "name": row.name,
                "source": row.source,
                "hours": row.hours,
                "core": row.core,
                "chatCore": row.chat_core,
                "bitsPerByte": row.bits_per_byte,
                "tasks": {**row.tasks},
            }
            for row in ROWS
        ],
        "missing": list(chain.notes),
    }


def _stage_document(stage: Stage, price: float | None) -> dict[str, Any]:
    origin = stage.origin
    return {
        "run": stage.run,
        "root": stage.root,
        "objective": stage.objective or None,
        "model": stage.model or None,
        "parameters": stage.parameters,
        "from": None if origin is None else {"run": origin.run, "root": origin.root},
        "after": stage.after,
        "firstStep": stage.first_step,
        "lastStep": stage.last_step,
        "complete": stage.history.complete if stage.history is not None else None,
        "tokens": stage.tokens,
        "sources": [
            {
                "name": one.name,
                "share": one.share,
                "tokens": one.tokens,
                "epochs": one.epochs,
                "heldOutSequences": one.held_out,
            }
            for one in stage.sources
        ],
        "place": {
            name: value for name, value in stage.place.items() if name not in ("event", "time", "attempt", "restart")
        },
        "chipHours": stage.chip_hours,
        "cost": stage.cost(price),
        "seconds": stage.seconds.document(),
        "heldOut": [{"step": step, "loss": loss, "bitsPerByte": bits} for step, loss, bits in stage.held_out],
        "heldOutRewards": [{"step": step, "reward": reward} for step, reward in stage.held_out_rewards],
        "averages": {name: {"step": step, "value": value} for name, (step, value) in stage.averages.items()},
        "tasks": {name: {"step": step, **found.document()} for name, (step, found) in stage.last_results.items()},
        "samples": [one.document() for _, samples in stage.last_samples.values() for one in samples],
        "rollouts": [asdict(one) for one in stage.rollouts],
    }
