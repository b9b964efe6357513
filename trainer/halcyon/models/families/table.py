"""The table of model families, with one row each."""

# ruff: noqa: N811 - each row binds the family of its file to one name

from __future__ import annotations

from typing import Any

from halcyon.models.families.family import Family


def family_of(kind: str) -> Family[Any, Any]:
    """The family of a section of ``spec.model``, by the section's name in documents.

    It imports the file of this family alone, because a run needs no other one.

    Raises:
        ValueError: There is no such family.
    """
    match kind:
        case "llama":
            from halcyon.models.families.llama import LLAMA as found
        case "gpt2":
            from halcyon.models.families.gpt2 import GPT2 as found
        case "qwen2":
            from halcyon.models.families.qwen import QWEN2 as found
        case "qwen3":
            from halcyon.models.families.qwen import QWEN3 as found
        case "mistral":
            from halcyon.models.families.mistral import MISTRAL as found
        case "gemma":
            from halcyon.models.families.gemma import GEMMA as found
        case "gemma2":
            from halcyon.models.families.gemma import GEMMA2 as found
        case "gemma3":
            from halcyon.models.families.gemma import GEMMA3 as found
        case "olmo2":
            from halcyon.models.families.olmo import OLMO2 as found
        case "olmo3":
            from halcyon.models.families.olmo import OLMO3 as found
        case "mixtral":
            from halcyon.models.families.mixtral import MIXTRAL as found
        case "qwen3Moe":
            from halcyon.models.families.qwen_moe import QWEN3_MOE as found
        case "gptOss":
            from halcyon.models.families.gpt_oss import GPT_OSS as found
        case "deepseekV3":
            from halcyon.models.families.deepseek import DEEPSEEK_V3 as found
        case "glm4Moe":
            from halcyon.models.families.deepseek import GLM4_MOE as found
        case "qwen3Next":
            from halcyon.models.families.qwen_next import QWEN3_NEXT as found
        case "apertus":
            from halcyon.models.families.apertus import APERTUS as found
        case "nanochat":
            from halcyon.models.families.nanochat import NANOCHAT as found
        case "custom":
            from halcyon.models.custom import CUSTOM as found
        case _:
            raise ValueError(f"there is no model family {kind}")
    return found
