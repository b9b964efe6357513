"""The family ``custom``: a model of the user's own package."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.model_shape import ModelShape

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
CLASS_PATTERN = rf"^{_NAME}(\.{_NAME})*:{_NAME}$"


class CustomSpec(ModelSection):
    """A model of your own package. Only the trainer imports it, so its size is not known when the document is
    applied.
    """

    family: Literal["custom"] = "custom"
    class_: str = Field(alias="class", max_length=253, pattern=CLASS_PATTERN)
    """Import path of the class, as `package.module:Class` (docs/guides/custom-models.md). The trainer's image must have
    the package."""
    config: dict[str, Any] = Field(
        default={}, max_length=256, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """The configuration: the arguments of the class `Config`. Any members."""

    published: ClassVar = "yours"

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """No sizes: only the trainer knows them. A mesh that the document does not set is all ``fsdp``, and no
        memory is estimated.
        """
        del vocabulary, positions
        return ModelShape(
            width=0, blocks=0, parameters=0, block_parameters=0, product_weights=0, attention_width=0, splits=()
        )
