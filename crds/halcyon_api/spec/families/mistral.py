"""``spec.model.mistral``: Mistral."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.spec.families.decoder import DecoderSection, LayerType, SlidingWindow
from halcyon_api.spec.families.section import ACTIVATION_DESCRIPTION, Activation


class MistralSpec(DecoderSection):
    """A Mistral decoder (Jiang et al. 2023): a Llama whose attention may see only a window."""

    rms_norm_eps: float = Field(default=1e-5, gt=0, description="Added to the mean square in RMSNorm.")
    hidden_act: Activation = Field(default="silu", description=ACTIVATION_DESCRIPTION)
    sliding_window: SlidingWindow | None = Field(
        default=None, description="Positions that attention sees, its own included. Default: all earlier ones."
    )

    published: ClassVar[str] = "Mistral 7B, Nemo 12B, Small 22B and 24B (text)"

    @property
    def layers_by_type(self) -> tuple[LayerType, ...]:
        """See `DecoderSection.layers_by_type`."""
        kind: LayerType = "full_attention" if self.sliding_window is None else "sliding_attention"
        return (kind,) * self.num_hidden_layers

    @property
    def window(self) -> int | None:
        """See `DecoderSection.window`."""
        return self.sliding_window

    @property
    def stated_window(self) -> int | None:
        """See `ModelSection.stated_window`."""
        return self.sliding_window
