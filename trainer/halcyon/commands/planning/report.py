"""What the operator shows of a plan: ``status.plan`` of a run. Pure."""

from halcyon.commands.planning.estimate import Estimate, in_words
from halcyon_api.status.plan import PlanStatus

_DAY = 86_400.0


def report_of(numbers: Estimate, note: str) -> PlanStatus:
    """The report of a planning pod.

    Args:
        numbers: The numbers of the plan.
        note: Why the step is not compiled for its own hardware; empty: it is.
    """
    step, available = (numbers.value("memory of a device", name) for name in ("the whole step", "there is"))
    memory = None if step is None or available is None else f"{step / 1e9:,.1f} GB of {available / 1e9:,.1f} GB"
    said = "the memory of a device is not known" if memory is None else f"a step takes {memory}"
    if numbers.missing_bytes:
        said = f"a step does not fit: it takes {memory}, so {numbers.missing_bytes:,} bytes are missing"
    time = numbers.step
    if time is not None:
        said += f", and {in_words(time.seconds)}, bound by {time.bound}"
    tokens = numbers.value("step", "tokens a day")
    return PlanStatus(
        fits=numbers.fits,
        memory=memory,
        step_seconds=None if time is None else time.seconds,
        tokens_per_second=None if tokens is None else tokens / _DAY,
        mfu=None if time is None else time.mfu,
        bound=None if time is None else time.bound,
        chip_hours=numbers.value("run", "chip-hours"),
        message=f"{said}{f'. {note}' if note else ''}"[:1024],
    )
