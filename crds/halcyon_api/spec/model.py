"""``spec.model``: the architecture. Sizes are numbers of features unless stated otherwise.

Fields have the names of Hugging Face's ``config.json`` in camelCase.
"""

from __future__ import annotations

from typing import ClassVar, cast, get_args

from halcyon_api.base import ApiModel, OneOf, Rule, RuledModel
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
from halcyon_api.spec.model_shape import ModelShape
from halcyon_api.spec.tokenizer import Uri

_FILE = "hugging_face"


class ModelFileSpec(ApiModel):
    """A model of a config.json.

    The programs that read this document from a file replace it by the section that the file describes.
    """

    config: Uri
    """The `config.json` or the folder with it: a path, from the folder of the document if it is relative, s3://, gs://,
    or hf://OWNER/NAME."""


class ModelSpec(OneOf, RuledModel):
    """The architecture: exactly one member."""

    llama: LlamaSpec | None = None
    """A Llama decoder."""
    gpt2: Gpt2Spec | None = None
    """A GPT-2 decoder."""
    qwen2: Qwen2Spec | None = None
    """A Qwen 2 or 2.5 decoder."""
    qwen3: Qwen3Spec | None = None
    """A dense Qwen 3 decoder."""
    mistral: MistralSpec | None = None
    """A Mistral decoder."""
    gemma: GemmaSpec | None = None
    """A Gemma decoder."""
    gemma2: Gemma2Spec | None = None
    """A Gemma 2 decoder."""
    gemma3: Gemma3Spec | None = None
    """A Gemma 3 text decoder."""
    olmo2: Olmo2Spec | None = None
    """An OLMo 2 decoder."""
    olmo3: Olmo3Spec | None = None
    """An OLMo 3 decoder."""

    mixtral: MixtralSpec | None = None
    """A Mixtral decoder."""
    qwen3_moe: Qwen3MoeSpec | None = None
    """A Qwen 3 decoder with experts."""
    gpt_oss: GptOssSpec | None = None
    """A gpt-oss decoder."""

    deepseek_v3: DeepseekV3Spec | None = None
    """A DeepSeek V3 or Kimi K2 decoder."""
    glm4_moe: Glm4MoeSpec | None = None
    """A GLM 4.5 decoder."""

    qwen3_next: Qwen3NextSpec | None = None
    """A Qwen3-Next or Qwen 3.5 text decoder."""

    apertus: ApertusSpec | None = None
    """An Apertus decoder."""
    nanochat: NanochatSpec | None = None
    """A nanochat decoder."""

    custom: CustomSpec | None = None
    """A model of your own package."""

    hugging_face: ModelFileSpec | None = None
    """The model of a Hugging Face `config.json`, only in a document that `halcyon` or `kubectl halcyon` reads from a
    file. `halcyon resolve` prints the document with the model's own section."""

    rules: ClassVar = (
        Rule(
            "!has(self.huggingFace)",
            lambda self: self.hugging_face is None,
            "huggingFace names a file, which only a command reads; print the document with its model by `halcyon "
            "resolve RUN.YAML`, and apply that",
            ".huggingFace",
        ),
    )

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The families."""
        return tuple(name for name in super().kinds() if name != _FILE)

    @classmethod
    def members(cls) -> tuple[str, ...]:
        """The families, and `hugging_face`, which is resolved before a document is checked."""
        return (*cls.kinds(), _FILE)

    @classmethod
    def of(cls, section: ModelSection) -> ModelSpec:
        """The model with this section."""
        kinds = {kind: get_args(cls.model_fields[kind].annotation) for kind in cls.kinds()}
        return cls.model_validate({next(kind for kind, classes in kinds.items() if type(section) in classes): section})

    @property
    def section(self) -> ModelSection:
        """The member that is set."""
        return cast("ModelSection", self.value)

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """The size of the model; see `ModelSection.shape`."""
        return self.section.shape(vocabulary, positions)
