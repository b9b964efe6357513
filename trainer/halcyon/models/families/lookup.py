"""Finds the form of Hugging Face of a config.json, and that of a section."""

import difflib
import re
from collections.abc import Mapping

from halcyon.host.errors import BadConfiguration
from halcyon.models.published import ConfigReader, PublishedModel
from halcyon.models.registry import family_of
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.model import FAMILIES

_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("kv_lora_rank", ("deepseek_v3",)),
    ("linear_num_key_heads", ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")),
    ("n_routed_experts", ("glm4_moe", "deepseek_v3")),
    ("num_local_experts", ("mixtral", "gpt_oss")),
    ("num_experts", ("qwen3_moe", "qwen3_5_moe_text", "qwen3_next")),
    ("final_logit_softcapping", ("gemma2",)),
    ("num_senses", ("backpack-gpt2",)),
    ("n_embd", ("gpt2",)),
    ("sliding_window", ("mistral", "qwen2", "qwen3", "gemma3_text", "olmo3")),
)
"""Keys of a config.json that show a part which only some architectures have, with their model types. The first one
decides."""
_PLAIN = "llama"
"""The model type nearest to one that nothing is known of."""

_MISSPELT = 0.75
"""Least similarity of a name that is a misspelt one, or that of another version."""
_ENDING = re.compile("For[A-Z][A-Za-z]+$")


def published_models() -> tuple[PublishedModel, ...]:
    """The forms of all families, in the order of ``spec.model``. It imports all families."""
    return tuple(form for family in FAMILIES for form in family_of(family).forms)


def published_of_config(config: ConfigReader, *, images: bool = False) -> PublishedModel:
    """The form of a config.json: by ``architectures``, or by ``model_type`` if it has none.

    Args:
        config: The config.json.
        images: Whether the whole of a model with images is wanted. Otherwise it is the text model.

    Raises:
        BadConfiguration: It is not one of `published_models`; the message names the nearest (`_nearest`).
    """
    forms = [form for form in published_models() if images or not form.images]
    match config.document.get("architectures"):
        case [str() as architecture, *_]:
            key, known = "architectures", {name: form for form in forms for name in form.architectures}
        case _:
            key, known = "model_type", {form.model_type: form for form in forms}
            architecture = config.text(key)
    if form := ({one.classifier: one for one in forms} | known).get(architecture):
        return form
    nearest = _nearest(config, architecture, known)
    shown = nearest.model_type if key == "model_type" else nearest.architectures[0]
    raise BadConfiguration(
        f"{config.where}: {key} names {architecture}, which Halcyon does not have; the nearest that it has is {shown}, "
        f"and all are {', '.join(known)}"
    )


def _nearest(config: ConfigReader, name: str, known: Mapping[str, PublishedModel]) -> PublishedModel:
    """The form nearest to the architecture of a config.json: among those with its parts, the one whose name differs by
    a few letters; else the first of them."""
    read = (config, config.part("text_config"))
    alike = next((types for key, types in _MARKS if any(part.has(key) for part in read)), ())
    short = {_ENDING.sub("", other): form for other, form in known.items()}
    misspelt = difflib.get_close_matches(_ENDING.sub("", name), short, n=len(short), cutoff=_MISSPELT)
    by_type = {form.model_type: form for form in known.values()}
    return next(
        (short[other] for other in misspelt if not alike or short[other].model_type in alike),
        by_type[alike[0] if alike else _PLAIN],
    )


def published_of_section(section: ModelSection) -> PublishedModel:
    """The form of a model of ``spec.model``.

    Raises:
        BadConfiguration: The family, or a model of it with these fields, has no form of Hugging Face.
    """
    forms = family_of(section.family).forms
    for form in forms:
        if form.covers(section) and (form.classifier or not section.classes):
            return form
    which = f"the family {section.family}{' with these fields of spec.model' if forms else ''}"
    raise BadConfiguration(f"a model of {which} has no form of Hugging Face to export")
