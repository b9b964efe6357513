"""The table of model families, from their sections: for ``halcyon models`` and for docs/reference/models.md."""

from dataclasses import dataclass

from pydantic.alias_generators import to_camel

from halcyon_api.spec.families.decoder import DecoderSection
from halcyon_api.spec.model import FAMILIES

COMMON: tuple[str, ...] = tuple(to_camel(name) for name in DecoderSection.model_fields if name != "family")
"""The fields that all families but `OTHERS` have."""
OTHERS = tuple(family for family, section in FAMILIES.items() if not issubclass(section, DecoderSection))

_HEADER = f"""\
<!-- Generated from crds/halcyon_api by `make generate`. Do not edit. -->
# Models

The families of `spec.model`; `halcyon models` prints the same table. Fields have the names of Hugging Face's `config.json` in camelCase, so
a model's file can be read across; `nanochat` has some names of its own. Every field but `family` has a default, except `class` of `custom`
and `ropeType` of `ropeScaling`. [The reference](trainingrun.md#specmodel) describes each one. `custom` is
[a model of your own](../guides/custom-models.md).

All families but {", ".join(f"`{name}`" for name in OTHERS)} have the fields
{", ".join(f"`{name}`" for name in COMMON)}.

| family | models | what it is | further fields |
|---|---|---|---|
"""

_PARITY = """
Each family computes what `transformers` computes: tests compare logits, loss and the gradient of every weight of tiny random models in
float32 (`tests/trainer/models/test_parity.py`), tied and untied, with several documents in a row, and beyond the window. The largest error
may be 2e-5 of the largest value. `make parity` does the same for random configurations of each family: sizes, biases, activations, windows
and rotary positions of every kind, in the forms of `config.json` of both `transformers` 4 and 5. In bfloat16 the norms have the bits of
`transformers`, except those of `llama`, which round once less; rotary positions are computed in float32.
[Exactness](../exactness.md) has the errors of each family.

`nanochat` is compared with its original in the same way, together with three steps of its optimizer
(`tests/trainer/models/test_nanochat.py`): `transformers` has only the form of October 2025, without value embeddings and the other later
parts. So it has no import and no export. [nanochat](../guides/nanochat.md) says what corresponds to what.

`backpack` is that of Levanter, and has the tensors of its exports. `hyena` is that of Levanter with the long convolutions of the paper:
Levanter's code convolves the channels of a position, so it mixes only the positions of the short convolution. It has no files, no cache,
so no generation, and no `context` axis. Both are compared with models in NumPy and float64 (`tests/trainer/models/test_forward.py`), and
so are the two further norms of `llama`, which Levanter has and `transformers` does not.

A `config.json` with a value that Halcyon does not compute is rejected, with one exception: what `transformers` does only while it trains is
left out. That is dropout, and the noise of Mixtral's routers.
"""


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
        fields = tuple(info.alias or to_camel(name) for name, info in section.model_fields.items() if name != "family")
        further = tuple(one for one in fields if one not in COMMON) if issubclass(section, DecoderSection) else fields
        meaning = " ".join((section.__doc__ or "").split("\n\n")[0].split()).removesuffix(".")
        found.append(FamilyRow(family, section.published, meaning, further))
    return tuple(found)


def render() -> str:
    """The text of docs/reference/models.md."""
    lines = [
        f"| `{row.family}` | {row.models} | {row.meaning} | {', '.join(f'`{name}`' for name in row.fields) or 'none'} |"
        for row in rows()
    ]
    return _HEADER + "\n".join(lines) + "\n" + _PARITY
