"""Renders ``docs/hardware.md`` from the hardware table and the template beside this file."""

from collections.abc import Iterable
from typing import get_args

from halcyon_api.generate.pages import page
from halcyon_api.hardware import PRICES, PROVISIONING_AS_OF, PROVISIONING_LABELS, PROVISIONING_SOURCE, TABLE, machines
from halcyon_api.hardware.compiler import COMPILER_OPTIONS, FIRST_JAX, title
from halcyon_api.hardware.kinds import Provisioning
from halcyon_api.spec.fabric import built_in_fabrics


def render() -> str:
    """The text of the page."""
    return page(
        "hardware.md.jinja",
        rows=TABLE.values(),
        title=title,
        quoted=_quoted,
        machines=machines,
        options=COMPILER_OPTIONS,
        first_jax=FIRST_JAX,
        fabrics=built_in_fabrics(),
        kinds=get_args(Provisioning),
        labels=PROVISIONING_LABELS,
        sources=_sources(),
    )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _sources() -> dict[tuple[str, ...], list[str]]:
    """What was read, by the source and the date."""
    read: list[tuple[str, ...]] = []
    for row in TABLE.values():
        read.append((f"`{row.name}`", row.source, row.as_of))
        if row.fabric is not None:
            read.append((f"network of `{row.name}`", *row.fabric.source.split(", read ")))
    read += ((f"fabric `{name}`", known.source, known.read) for name, known in built_in_fabrics().items())
    read.append(("list prices of a chip-hour", *PRICES.split(", read ")))
    read.append(("`provisioning`", PROVISIONING_SOURCE, PROVISIONING_AS_OF))
    found: dict[tuple[str, ...], list[str]] = {}
    for what, *where in read:
        found.setdefault(tuple(where), []).append(what)
    return found
