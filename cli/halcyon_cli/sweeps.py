"""``halcyon render --matrix``: one run document for each variant of a sweep. Pure.

Each random value is a function of the sweep's seed, the number of its variant and its path. So another parameter, or
more samples, change none of the values that a sweep had before.
"""

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from halcyon_api.base import ApiModel, InvalidRun, OneOf, RunName, optional
from halcyon_api.names import ANNOTATION_SWEEP, LABEL_SWEEP, MAX_RUN_NAME_LENGTH
from halcyon_api.overrides import Override, override, with_overrides
from halcyon_api.sentences import sentences

MAX_VARIANTS = 1_000
_DIGITS = 4
_ROOTS = ("checkpoint", "export")

Values = dict[str, Any]
"""The values of a variant by their paths."""
Bounds = Annotated[list[float], Field(min_length=2, max_length=2)]


class RangeSpec(OneOf):
    """How one value is drawn: exactly one member."""

    uniform: Bounds | None = optional("Evenly between two numbers.")
    log_uniform: Bounds | None = optional("Between two numbers, evenly on a logarithmic scale.")
    integer: list[int] | None = optional("A whole number between two, both included.", min_length=2, max_length=2)
    choice: list[Any] | None = optional("One of these values.", min_length=1)


class RandomSpec(ApiModel):
    """Variants with random values."""

    samples: int = Field(description="Number of variants.", ge=1, le=MAX_VARIANTS)
    seed: int = Field(default=0, description="Seed of all values.")
    values: dict[str, RangeSpec] = Field(description="For each path: how its value is drawn.", min_length=1)


class Sweep(OneOf):
    """The document of a sweep: its name, and exactly one of grid, random and list."""

    name: RunName | None = optional("Value of the label. Default: the run's name.")
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] | None = optional(
        "For each path its values; each combination is a variant, the last path changes first.",
        min_length=1,
    )
    random: RandomSpec | None = optional("Random values.")
    variants: list[dict[str, Any]] | None = optional("The values of each variant.", alias="list", min_length=1)

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The kinds; the name is common to all."""
        return ("grid", "random", "variants")

    @classmethod
    def one_of_message(cls) -> str:
        """The error message when none or several are set."""
        return "set exactly one of grid, random and list"


@dataclass(frozen=True)
class Variant:
    """One variant of a sweep."""

    number: int
    """From 1."""
    values: Values
    document: Any
    """Its run document."""

    def __str__(self) -> str:
        values = ", ".join(f"{path}={json.dumps(value)}" for path, value in self.values.items())
        return f"member {self.number} ({values})"


def parse_sweep(document: Any) -> Sweep:
    """Check a parsed sweep document.

    Raises:
        InvalidRun: The document does not fit; the message has one sentence for each error.
    """
    try:
        return Sweep.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidRun("; ".join(sentences(Sweep, error.errors()))) from None


def values_of(sweep: Sweep) -> list[Values]:
    """The values of each variant, in order.

    Raises:
        InvalidRun: There are too many variants, or a range is not one.
    """
    if sweep.variants is not None:
        found = sweep.variants
    elif sweep.grid is not None:
        count = math.prod(map(len, sweep.grid.values()))
        if count > MAX_VARIANTS:
            raise InvalidRun(
                f"grid: {count:,} combinations are more than {MAX_VARIANTS:,}; give fewer values, or use random"
            )
        found = [dict(zip(sweep.grid, values, strict=True)) for values in itertools.product(*sweep.grid.values())]
    else:
        given = sweep.random
        assert given is not None  # noqa: S101 - exactly one is set
        found = [
            {path: _drawn(drawn, f"{given.seed}/{number}/{path}", path) for path, drawn in given.values.items()}
            for number in range(given.samples)
        ]
    if len(found) > MAX_VARIANTS:
        raise InvalidRun(f"list: {len(found):,} variants are more than {MAX_VARIANTS:,}; give fewer")
    return found


def _drawn(drawn: RangeSpec, seed: str, path: str) -> Any:
    """One random value. Numbers have `_DIGITS` significant digits, so that they can be read and typed again."""
    source = random.Random(seed)  # noqa: S311 - not for security
    if drawn.choice is not None:
        return drawn.choice[source.randrange(len(drawn.choice))]
    low, high = drawn.integer or drawn.uniform or drawn.log_uniform or [0, 0]
    if low > high or (drawn.log_uniform is not None and low <= 0):
        least = " above 0" if drawn.log_uniform is not None else ""
        raise InvalidRun(f"random.values.{path}: give the smaller number first, both numbers{least}")
    if drawn.integer is not None:
        return source.randint(*drawn.integer)
    share = source.random()
    value = low * (high / low) ** share if drawn.log_uniform is not None else low + (high - low) * share
    return float(f"{value:.{_DIGITS}g}")


def variants(base: Any, sweep: Sweep) -> list[Variant]:
    """The variants of a run, each with a name, and with a checkpoint root and export root of its own.

    Args:
        base: The run's document.
        sweep: The sweep.

    Raises:
        InvalidRun: A path or value of the sweep does not fit the schema, or a name is too long.
    """
    metadata = base.get("metadata") if isinstance(base, dict) else None
    run = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(run, str):
        raise InvalidRun("metadata.name: required, and not there; add it")
    each = values_of(sweep)
    width = len(str(len(each)))
    found: list[Variant] = []
    for number, values in enumerate(each, start=1):
        changes = [override(path, value) for path, value in values.items()]
        name = f"{run}-{number:0{width}d}"
        if len(name) > MAX_RUN_NAME_LENGTH:
            raise InvalidRun(
                f"metadata.name: {name} has more than {MAX_RUN_NAME_LENGTH} characters; give the run a shorter name"
            )
        document = with_overrides(_named(base, name, values, changes, sweep.name or run), changes)
        found.append(Variant(number, values, document))
    return found


def _named(
    base: Mapping[str, Any], name: str, values: Values, changes: Sequence[Override], sweep: str
) -> dict[str, Any]:
    """The base with the name, the label, the annotation and the roots of a variant."""
    metadata, spec = base["metadata"], dict(base.get("spec") or {})
    labels = {**(metadata.get("labels") or {}), LABEL_SWEEP: sweep}
    notes = {**(metadata.get("annotations") or {}), ANNOTATION_SWEEP: json.dumps(values, sort_keys=True)}
    own_name = next((change.value for change in changes if change.path == "metadata.name"), name)
    for section in _ROOTS:
        place = spec.get(section)
        if isinstance(place, dict) and isinstance(place.get("root"), str):
            spec[section] = {**place, "root": f"{place['root'].rstrip('/')}/{own_name}"}
    metadata = {**metadata, "name": name, "labels": labels, "annotations": notes}
    return {**base, "metadata": metadata, "spec": spec}
