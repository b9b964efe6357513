"""The sizes of a mixture of experts, and what families with experts share."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from pydantic import NonNegativeFloat

from halcyon_api.base import Rule, shows
from halcyon_api.spec.families.decoder import DecoderSection
from halcyon_api.spec.families.section import Count, DecoderSizes, Width
from halcyon_api.spec.model_shape import ModelShape, Split


@dataclass(frozen=True)
class ExpertSizes:
    """What the number of parameters of the layers with experts depends on. Sizes are numbers of features unless
    stated otherwise.
    """

    experts: int
    """Experts of a layer."""
    per_token: int
    """Experts that a token goes to."""
    mlp: int
    """Features inside an expert."""
    with_experts: tuple[bool, ...]
    """For each layer, whether it has experts. The others have an MLP."""
    shared: int = 0
    """Features of the MLP that every token goes through beside its experts; 0: none."""
    shared_gate: bool = False
    """Whether the output of that MLP has a factor of its own, from the features."""
    bias: bool = False
    """Biases of the router and of the experts."""
    correction: bool = False
    """A correction of the router's scores, one number for each expert."""
    expert_field: str = "numExperts"
    """The field of the section that sets `experts`."""
    mlp_field: str = "moeIntermediateSize"
    """The field of the section that sets `mlp`."""
    shared_field: str = "moeIntermediateSize"
    """The field of the section that sets `shared`."""

    def shape(self, dense: DecoderSizes, attention: ModelShape | None, vocabulary: int, positions: int) -> ModelShape:
        """The shape of a decoder with experts.

        With width d, E experts of m features, k of them for each token, and a shared MLP of s features, a layer with
        experts has, in the place of the 3 d n weights of an MLP of n features, d E + 3 d m E + 3 d s weights (d more
        with a gate of the shared MLP), and the biases that its family has. A token goes through d E + 3 d m k + 3 d s
        of them.

        Args:
            dense: The same decoder with an MLP in every layer; it has the sizes of attention and of the MLPs of layers
                without experts.
            attention: The shape without any MLP, if `dense` does not describe its attention.
            vocabulary: See `ModelSection.shape`.
            positions: See `ModelSection.shape`.
        """
        bare = attention or dataclasses.replace(dense, mlp=0).shape(vocabulary, positions)
        width, sparse = bare.width, sum(self.with_experts)
        plain = 3 * width * dense.mlp
        expert = 3 * width * self.mlp
        expert_bias = self.bias * (2 * self.mlp + width)
        common = width * (self.experts + self.shared_gate) + 3 * width * self.shared
        router_extra = (self.bias + self.correction) * self.experts
        mixture = common + router_extra + self.experts * (expert + expert_bias)
        dense_layers = bare.blocks - sparse
        splits = [split for split in bare.splits if split.axis != "features"]
        features = [Split("features", self.mlp_field, self.mlp)] if sparse else []
        features += [Split("features", "intermediateSize", dense.mlp)] if dense_layers else []
        features += [Split("features", self.shared_field, self.shared)] if sparse and self.shared else []
        return dataclasses.replace(
            bare,
            parameters=bare.parameters + sparse * mixture + dense_layers * plain,
            block_parameters=bare.block_parameters + max(mixture if sparse else 0, plain if dense_layers else 0),
            product_weights=bare.product_weights + sparse * (common + self.per_token * expert) + dense_layers * plain,
            idle_parameters=sparse * (self.experts - self.per_token) * (expert + expert_bias),
            splits=(*splits, *features, *([Split("experts", self.expert_field, self.experts)] if sparse else [])),
        )


def per_token_rule(experts: str) -> Rule:
    """A token cannot go to more experts than there are; `experts` is the field with their number."""
    return Rule(
        f"self.numExpertsPerTok <= self.{experts}",
        f"numExpertsPerTok must be at most {experts}",
        ".numExpertsPerTok",
        shows("numExpertsPerTok", experts),
    )


class ExpertsSection(DecoderSection):
    """A decoder whose layers, or some of them, have experts in the place of the MLP."""

    router_aux_loss_coef: NonNegativeFloat = 0.001
    """Factor of the routers' balance loss, added to the minimised loss, not to the reported one: the mean over
    sequences and layers, and `numExpertsPerTok` if every expert gets the same number of tokens."""
    router_z_loss_coef: NonNegativeFloat = 0.0
    """Factor of the mean squared logarithm of the routers' softmax denominators. 0: no such loss."""

    rules: ClassVar[tuple[Rule, ...]] = DecoderSection.rules

    def experts(self) -> ExpertSizes:
        """The sizes of the layers with experts. A family states them."""
        raise NotImplementedError

    def without_further(self, vocabulary: int, positions: int) -> ModelShape:
        """See `ExpertSizes.shape`, which has the formula."""
        return self.experts().shape(self.sizes(), None, vocabulary, positions)


class LocalExpertsSection(ExpertsSection):
    """A decoder with experts, and no MLP, in every layer, by the names of Mixtral."""

    intermediate_size: Width = 2048
    """Width of an expert."""
    num_local_experts: Count = 8
    """Experts of a layer."""
    num_experts_per_tok: Count = 2
    """Experts that a token goes to."""

    rules: ClassVar = (*ExpertsSection.rules, per_token_rule("numLocalExperts"))

    def experts(self) -> ExpertSizes:
        """See `ExpertsSection.experts`."""
        return ExpertSizes(
            experts=self.num_local_experts,
            per_token=self.num_experts_per_tok,
            mlp=self.intermediate_size,
            with_experts=(True,) * self.num_hidden_layers,
            expert_field="numLocalExperts",
            mlp_field="intermediateSize",
        )
