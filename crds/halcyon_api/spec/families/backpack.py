"""The family ``backpack``: a GPT-2 that weighs vectors of its tokens."""

import dataclasses
from typing import ClassVar, Literal

from halcyon_api.base import Rule, shows
from halcyon_api.spec.families.gpt2 import Gpt2Section
from halcyon_api.spec.families.section import AttentionNeeds, Count
from halcyon_api.spec.model_shape import ModelShape, Split


class BackpackSpec(Gpt2Section):
    """A Backpack (Hewitt et al. 2023): sense vectors of each token, weighed by a GPT-2."""

    family: Literal["backpack"] = "backpack"
    num_senses: Count = 16
    """Sense vectors of a token."""
    sense_intermediate_scale: Count = 4
    """Width of the MLP that makes sense vectors, in `hiddenSize`."""

    published: ClassVar = "Backpack of Levanter, 1.4B"
    rules: ClassVar = (
        *Gpt2Section.rules,
        Rule(
            "self.hiddenSize % self.numSenses == 0",
            "hiddenSize must be a multiple of numSenses",
            ".numSenses",
            shows("hiddenSize", "numSenses"),
        ),
    )

    @property
    def sense_mlp_size(self) -> int:
        """Width of the MLP that makes the sense vectors."""
        return self.sense_intermediate_scale * self.hidden_size

    @property
    def attention_needs(self) -> AttentionNeeds:
        """See `ModelSection.attention_needs`. The weights of senses need more than the blocks."""
        return AttentionNeeds(self.hidden_size // self.num_senses, self.hidden_size)

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """See `ModelSection.shape`.

        With width d, MLP m and S senses of an MLP of width k, the senses have 2 d m + d k (1 + S) + 2 d² weights of
        products, a bias for each of their outputs, and three norms. Each sense has a query and a key of d / S features,
        and a value of d.
        """
        trunk, width, mlp, senses = (
            super().shape(vocabulary, positions),
            self.hidden_size,
            self.mlp_size,
            self.num_senses,
        )
        products = 2 * width * mlp + width * self.sense_mlp_size * (1 + senses) + 2 * width * width
        biases = mlp + 3 * width + self.sense_mlp_size + senses * width
        return dataclasses.replace(
            trunk,
            parameters=trunk.parameters + products + biases + 3 * (2 * width),
            product_weights=trunk.product_weights + products,
            attention_width=trunk.attention_width + (1 + senses) * width,
            splits=(*trunk.splits, Split("heads", "numSenses", senses)),
        )
