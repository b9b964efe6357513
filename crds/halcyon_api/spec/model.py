"""``spec.model``: the architecture. Parameter names follow the papers; sizes are numbers of features unless stated otherwise."""

from __future__ import annotations

from typing import cast

from pydantic import Field

from halcyon_api.base import OneOf
from halcyon_api.spec.families.gpt2 import Gpt2Spec
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.model_shape import ModelShape


class ModelSpec(OneOf):
    """The architecture: exactly one member."""

    llama: LlamaSpec | None = Field(default=None, description="A Llama decoder.")
    gpt2: Gpt2Spec | None = Field(default=None, description="A GPT-2 decoder.")

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """The size of the model; see `ModelSection.shape`."""
        return cast("ModelSection", self.value).shape(vocabulary, positions)
