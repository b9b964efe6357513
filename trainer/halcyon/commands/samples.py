"""The command ``halcyon samples``: sampled answers of a run with their rewards, which are kept beside its
checkpoints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.text import Text

from halcyon.commands.checkpoints import RootArgument, root_store
from halcyon.commands.errors import console, report_root_errors
from halcyon.commands.options import AtLeast1, Json, StoreSettings
from halcyon.host.errors import BadConfiguration, NoValidCheckpoint
from halcyon_api.counting import counted

if TYPE_CHECKING:
    from halcyon.telemetry.history.samples import StepSamples


def samples(
    place: RootArgument,
    *,
    step: AtLeast1 | None = None,
    as_json: Json = False,
    settings: StoreSettings,
) -> None:
    """Show answers that a run with objective.policy has sampled, with their rewards.

    Args:
        step: The step, as the log counts it. Default: the newest with samples.
        as_json: Print the samples, and the rewards of all answers, as one JSON object.
    """
    from halcyon.host.storage.records import DamagedRecord
    from halcyon.telemetry.history.samples import read_samples, sampled_steps

    with report_root_errors():
        store = root_store(place, settings)
        steps = sampled_steps(store)
        if not steps:
            raise BadConfiguration(
                f"{store.root}: it has no samples; give the root of a run with objective.policy that has done a step"
            )
        wanted = steps[-1] if step is None else step
        try:
            found = read_samples(store, wanted)
        except DamagedRecord as damage:
            raise NoValidCheckpoint(str(damage)) from None
        if found is None:
            nearest = min(steps, key=lambda sampled: abs(sampled - wanted))
            raise BadConfiguration(
                f"{store.root}: step {wanted} has no samples; {counted(len(steps), 'step')} from {steps[0]} to "
                f"{steps[-1]} have, the nearest is {nearest}"
            )
        if as_json:
            sys.stdout.write(f"{json.dumps(asdict(found), indent=1, ensure_ascii=False)}\n")
            return
        terminal = console()
        for line in _lines(found):
            terminal.print(line, soft_wrap=True)


def _lines(sampled: StepSamples) -> Iterator[Text]:
    from halcyon_api.printable import printable

    rewards = sampled.rewards
    mean = sum(rewards) / max(1, len(rewards))
    yield Text(f"Step {sampled.step:,}: {counted(len(rewards), 'answer')}, mean reward {mean:z.4g}", style="bold")
    for sample in sampled.samples:
        yield Text()
        yield Text(printable(sample.prompt), style="cyan")
        if sample.reference:
            yield Text(f"reference: {printable(sample.reference)}", style="dim")
        for answer, reward, tokens, ended in zip(
            sample.answers, sample.rewards, sample.tokens, sample.ended, strict=True
        ):
            yield Text(
                f"reward {reward:z.4g}, {counted(tokens, 'token')}{'' if ended else ', cut'}",
                style="green" if reward > 0 else "yellow",
            )
            yield Text(printable(answer))
