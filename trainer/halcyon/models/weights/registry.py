"""The families that can be imported and exported."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from halcyon.errors import BadConfiguration
from halcyon.models.weights.apertus import APERTUS
from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.deepseek import DEEPSEEK_V3, GLM4_MOE
from halcyon.models.weights.family import Family
from halcyon.models.weights.gemma import GEMMA, GEMMA2, GEMMA3
from halcyon.models.weights.gpt2 import GPT2
from halcyon.models.weights.gpt_oss import GPT_OSS
from halcyon.models.weights.llama import LLAMA
from halcyon.models.weights.mistral import MISTRAL
from halcyon.models.weights.mixtral import MIXTRAL
from halcyon.models.weights.olmo import OLMO2, OLMO3
from halcyon.models.weights.qwen import QWEN2, QWEN3
from halcyon.models.weights.qwen_moe import QWEN3_MOE
from halcyon.models.weights.qwen_next import QWEN3_NEXT, QWEN35, QWEN35_MOE
from halcyon_api.spec.families.section import ModelSection

FAMILIES: tuple[Family, ...] = (
    *(LLAMA, GPT2, QWEN2, QWEN3, MISTRAL, GEMMA, GEMMA2, GEMMA3, OLMO2, OLMO3),
    *(MIXTRAL, QWEN3_MOE, GPT_OSS, DEEPSEEK_V3, GLM4_MOE, QWEN35, QWEN35_MOE, QWEN3_NEXT, APERTUS),
)


_MARKS: tuple[tuple[str, tuple[Family, ...]], ...] = (
    ("kv_lora_rank", (DEEPSEEK_V3,)),
    ("linear_num_key_heads", (QWEN3_NEXT, QWEN35, QWEN35_MOE)),
    ("n_routed_experts", (GLM4_MOE, DEEPSEEK_V3)),
    ("num_local_experts", (MIXTRAL, GPT_OSS)),
    ("num_experts", (QWEN3_MOE, QWEN35_MOE, QWEN3_NEXT)),
    ("final_logit_softcapping", (GEMMA2,)),
    ("n_embd", (GPT2,)),
    ("sliding_window", (MISTRAL, QWEN2, QWEN3, GEMMA3, OLMO3)),
)
"""Keys of a config.json that show a part which only some architectures have, with the families that have it. The first one decides."""

_MISSPELT = 0.75
"""Least similarity of a name that is a misspelt one, or that of another version."""
_ENDING = re.compile("For[A-Z][A-Za-z]+$")


def family_of_config(config: ConfigReader) -> Family:
    """The family of a config.json: by ``architectures``, or by ``model_type`` if it has none.

    Raises:
        BadConfiguration: It is not one of `FAMILIES`; the message names the nearest (`_nearest`).
    """
    named = config.document.get("architectures")
    architecture = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None
    known = {name: family for family in FAMILIES for name in family.architectures}
    if architecture is None:
        known, architecture, key = {family.model_type: family for family in FAMILIES}, config.text("model_type"), "model_type"
    else:
        key = "architectures"
    if architecture in known:
        return known[architecture]
    nearest = _nearest(config, architecture, known)
    shown = nearest.model_type if key == "model_type" else nearest.architectures[0]
    raise BadConfiguration(
        f"{config.where}: {key} names {architecture}, which Halcyon does not have; the nearest that it has is {shown}, and all are "
        f"{', '.join(known)}"
    )


def _nearest(config: ConfigReader, name: str, known: Mapping[str, Family]) -> Family:
    """The family nearest to the architecture of a config.json: among those with its parts, the one whose name differs by a few letters;
    else the first of them."""
    read = (config, config.inner("text_config") or config.empty())
    alike = next((families for key, families in _MARKS if any(part.has(key) for part in read)), ())
    short = {_ENDING.sub("", other): family for other, family in known.items()}
    misspelt = difflib.get_close_matches(_ENDING.sub("", name), short, n=len(short), cutoff=_MISSPELT)
    return next((short[other] for other in misspelt if not alike or short[other] in alike), alike[0] if alike else LLAMA)


def family_of_section(section: ModelSection) -> Family:
    """The family of a section of ``spec.model``.

    Raises:
        BadConfiguration: The family has no form of Hugging Face.
    """
    for family in FAMILIES:
        if type(section) is family.section and family.covers(section):
            return family
    raise BadConfiguration(f"a model of the kind {type(section).__name__.removesuffix('Spec')} has no form of Hugging Face to export")
