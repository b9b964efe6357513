"""The size of a model, computed by its section.

`mesh`, `validation`, the trainer's FLOPs and its memory estimate use only this.
"""

from dataclasses import dataclass

from halcyon_api.spec.mesh import LogicalAxis


@dataclass(frozen=True)
class Split:
    """A size of the model that mesh axes divide."""

    axis: LogicalAxis
    field: str
    """The field of the model's section that sets it."""
    size: int


COLOURS = 3
"""Numbers of a pixel."""


@dataclass(frozen=True)
class ImageShape:
    """What the images of a model that sees need in a row."""

    image_size: int
    """Pixels of a side of an image."""
    tokens: int
    """Tokens of an image."""
    images: int
    """Most images of a row."""
    image_token_index: int
    """Id of their tokens."""
    printed: str = "<start_of_image>"
    """The special token that a chat template prints for an image."""
    token: str = "<image_soft_token>"  # noqa: S105
    """The special token of the model that stands for each of its tokens."""
    before: str = "\n\n<start_of_image>"
    """What stands before them, in the place of what is printed: line breaks, and perhaps a special token."""
    after: str = "<end_of_image>\n\n"
    positions: int = 0
    """Positions that an image takes in the text. 0: one for each token."""
    cubic: bool = False
    """Whether images are resized by cubic functions in place of linear ones."""


@dataclass(frozen=True)
class ModelShape:
    """The size of a model for one vocabulary and one longest sequence. Counts are elements, not bytes."""

    width: int
    """Features of the residual stream."""
    blocks: int
    parameters: int
    """Parameters of the whole model; equal to the count of the built model."""
    block_parameters: int
    """Parameters of the largest block, which a device gathers before it computes with it."""
    product_weights: int
    """Weights of the matrix products that a token passes through, the output head included; of experts, those that it
    goes to.
    """
    attention_width: int
    """Features of a head's queries plus those of its values, times query heads, summed over the blocks whose attention
    sees the whole sequence: the multiplications of a query with one position."""
    splits: tuple[Split, ...]
    """The sizes that mesh axes divide, in the order of the section's fields."""
    windowed_width: int = 0
    """The same sum over the blocks whose attention sees a window."""
    window: int = 0
    """Positions of that window."""
    state_products: int = 0
    """Multiplications of a token with the recurrent states of all blocks."""
    idle_parameters: int = 0
    """Parameters of the experts that a token does not go to."""

    @property
    def active_parameters(self) -> int:
        """Parameters that the computation of one token uses."""
        return self.parameters - self.idle_parameters

    def flops_per_token(self, sequence_length: int, *, frozen: bool = False) -> int:
        """Floating-point operations, forward and backward, for each token of a training step.

        After Chowdhery et al. 2022 (PaLM, appendix B): two for each weight of a matrix product, attention over the
        whole square of positions (the causal mask is not deducted), and twice as many backward as forward. A query of a
        windowed block counts only the positions of its window. A recurrent state counts its reading, its correction and
        its output, position by position. Recomputation, embedding look-ups, norms, short convolutions, softmax and the
        optimizer do not count.

        Args:
            sequence_length: Tokens of a sequence.
            frozen: Whether the weights are frozen beside an adapter, so that they have no product for a gradient of
                their own. The products of the adapter are not counted.
        """
        scores_and_values = self.attention_width * sequence_length + self.windowed_width * min(
            self.window, sequence_length
        )
        return 3 * 2 * (self.product_weights + self.state_products + scores_and_values) - (
            2 * self.product_weights if frozen else 0
        )
