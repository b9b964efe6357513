"""``spec.model``: the architecture, one object whose ``family`` decides what other fields it has.

Fields have the names of Hugging Face's ``config.json`` in camelCase. Sizes are numbers of features unless stated
otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, TypeAdapter

from halcyon_api.base import Rule
from halcyon_api.spec.families.apertus import ApertusSpec
from halcyon_api.spec.families.custom import CustomSpec
from halcyon_api.spec.families.deepseek import DeepseekV3Spec, Glm4MoeSpec
from halcyon_api.spec.families.gemma import Gemma2Spec, Gemma3Spec, GemmaSpec
from halcyon_api.spec.families.gpt2 import Gpt2Spec
from halcyon_api.spec.families.gpt_oss import GptOssSpec
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.families.mistral import MistralSpec
from halcyon_api.spec.families.mixtral import MixtralSpec
from halcyon_api.spec.families.nanochat import NanochatSpec
from halcyon_api.spec.families.olmo import Olmo2Spec, Olmo3Spec
from halcyon_api.spec.families.qwen import Qwen2Spec, Qwen3Spec
from halcyon_api.spec.families.qwen_moe import Qwen3MoeSpec
from halcyon_api.spec.families.qwen_next import Qwen3NextSpec
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.tokenizer import Uri


class ModelFileSpec(ModelSection):
    """A model of a config.json, only in a document that `halcyon` or `kubectl halcyon` reads from a file.

    They replace this object by the one that the file describes, before they check the document.
    """

    family: Literal["huggingFace"] = "huggingFace"
    config_file: Uri
    """The `config.json` or the folder with it: a path, from the folder of the document if it is relative, s3://, gs://,
    or hf://OWNER/NAME. `halcyon resolve` prints the document with the model of the file."""

    rules: ClassVar = (
        Rule(
            "false",
            lambda self: False,
            "the family huggingFace names a file, which only a command reads; print the document with its model by "
            "`halcyon resolve RUN.YAML`, and apply that",
            ".family",
        ),
    )


Model = Annotated[
    LlamaSpec
    | Gpt2Spec
    | Qwen2Spec
    | Qwen3Spec
    | MistralSpec
    | GemmaSpec
    | Gemma2Spec
    | Gemma3Spec
    | Olmo2Spec
    | Olmo3Spec
    | MixtralSpec
    | Qwen3MoeSpec
    | GptOssSpec
    | DeepseekV3Spec
    | Glm4MoeSpec
    | Qwen3NextSpec
    | ApertusSpec
    | NanochatSpec
    | CustomSpec
    | ModelFileSpec,
    Field(discriminator="family"),
]
"""A model of any family."""

FAMILIES: dict[str, type[ModelSection]] = {
    section.model_fields["family"].default: section
    for section in get_args(get_args(Model)[0])
    if section is not ModelFileSpec
}
"""The families with their classes. `ModelFileSpec` is none: it is replaced before a document is checked."""

_MODEL: TypeAdapter[ModelSection] = TypeAdapter(Model)


def read_model(document: Any) -> ModelSection:
    """The model of a document of ``spec.model``.

    Raises:
        ValidationError: It is of no family, or does not fit its family.
    """
    return _MODEL.validate_python(document)
