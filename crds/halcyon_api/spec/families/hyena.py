"""The family ``hyena``: Hyena."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from halcyon_api.spec.families.gpt2 import LearnedPositionsSection
from halcyon_api.spec.families.section import Count
from halcyon_api.spec.model_shape import ModelShape, Split

TAPS = 3
"""Positions of the short convolution."""
FILTER_INPUTS = 3
"""Features of a distance, from which a filter is made: itself, and the cosine and the sine of a wave."""


class HyenaSpec(LearnedPositionsSection):
    """A Hyena (Poli et al. 2023): a GPT-2 with gated long convolutions in the place of attention."""

    family: Literal["hyena"] = "hyena"
    hyena_order: Annotated[int, Field(ge=2, le=16)] = 2
    """Gates of a block. Between them are long convolutions."""
    filter_order: Count = 16
    """Width of the MLP that makes the long filters."""

    published: ClassVar = "Hyena of Levanter"
    whole_sequences: ClassVar = True

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """See `ModelSection.shape`.

        With width d, MLP m and order n, a block has d² (n + 2) + 2 d m weights of products. Filters are computed once
        for all sequences: neither their weights nor the transforms count as products.
        """
        width, order, inner = self.hidden_size, self.hyena_order, self.filter_order
        found, layers = super().shape(vocabulary, positions), self.num_hidden_layers
        products = width * width * (order + 2)
        convolutions = (order + 1) * width * TAPS
        filters = inner * (FILTER_INPUTS + 1) + inner * (inner + 1) + (inner + 1) * (order - 1) * width + inner
        mixer = products + convolutions + filters + 2 * (order + 1) * width + 2 * width
        return dataclasses.replace(
            found,
            parameters=found.parameters + layers * mixer,
            block_parameters=found.block_parameters + mixer,
            product_weights=found.product_weights + layers * products,
            splits=(found.splits[0], Split("features", "hiddenSize", width), found.splits[1]),
        )
