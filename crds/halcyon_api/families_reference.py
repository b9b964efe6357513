"""The table of model families, from their sections: for ``halcyon models`` and for docs/reference/models.md."""

from dataclasses import dataclass

from halcyon_api.base import fields_by_name
from halcyon_api.spec.families.decoder import DecoderSection
from halcyon_api.spec.model import FAMILIES

COMMON: tuple[str, ...] = tuple(name for name in fields_by_name(DecoderSection) if name != "family")
"""The fields that all families but `OTHERS` have."""
OTHERS = tuple(family for family, section in FAMILIES.items() if not issubclass(section, DecoderSection))


@dataclass(frozen=True)
class FamilyRow:
    """One family.

    Attributes:
        family: Its name in ``spec.model.family``.
        models: The published models that it covers.
        meaning: What it is, in one sentence without the full stop.
        fields: Its fields beside `COMMON`, or all fields if it does not have those.
    """

    family: str
    models: str
    meaning: str
    fields: tuple[str, ...]


def rows() -> tuple[FamilyRow, ...]:
    """The families in the order of ``spec.model``."""
    found: list[FamilyRow] = []
    for family, section in FAMILIES.items():
        fields = tuple(name for name in fields_by_name(section) if name != "family")
        further = tuple(one for one in fields if one not in COMMON) if issubclass(section, DecoderSection) else fields
        meaning = " ".join((section.__doc__ or "").split("\n\n")[0].split()).removesuffix(".")
        found.append(FamilyRow(family, section.published, meaning, further))
    return tuple(found)
