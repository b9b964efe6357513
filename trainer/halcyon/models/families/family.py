"""What Halcyon knows of a model family, and the designs of those whose sections have the names of Hugging Face."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models.decoder import Decoder
from halcyon.models.design import BlockKind, Design, FurtherLayers, Mixture
from halcyon.models.model import CausalLM
from halcyon.models.parts.experts import Gate, gate_of
from halcyon.models.parts.moe import RouterLosses
from halcyon.models.parts.rotary import Rope
from halcyon.models.parts.routing import Routing
from halcyon.models.published import PublishedModel
from halcyon_api.spec.families.decoder import DecoderSection
from halcyon_api.spec.families.section import Activation, ModelSection


@dataclass(frozen=True)
class Family:
    """A family: its section of ``spec.model``, the model of a section, and its forms in the files of Hugging Face.

    Attributes:
        section: The class of its section.
        init: Makes a model with random parameters from a section, the axes of the vocabulary and of positions, a type
            and ``key``; see `halcyon.models.build_model`.
        forms: The classes of transformers that compute models of the family. Empty: it cannot be imported or exported.
    """

    section: type[ModelSection]
    init: Callable[..., CausalLM]
    forms: tuple[PublishedModel, ...] = ()


def decoder_family(
    section: type[ModelSection],
    design: Callable[[Any], Design],
    *forms: PublishedModel,
    kind: type[Decoder] = Decoder,
    seeing: tuple[Callable[..., Any], type[Decoder]] | None = None,
) -> Family:
    """A family whose models are a `Decoder` of the design of a section, or of another `kind`; those of a section with a
    `vision` have an encoder of images, which the first of `seeing` makes, and are of its second."""

    def init(spec: Any, vocab: Axis, max_position: Axis, dtype: jnp.dtype, /, *, key: PRNGKeyArray) -> Decoder:
        found, model = design(spec), kind
        if seeing is not None and spec.vision is not None:
            tower, model = seeing
            encoder = functools.partial(tower, spec.vision, spec.initializer_range, found.axes.embed)
            found = dataclasses.replace(found, encoder=encoder)
        if isinstance(spec, DecoderSection) and (count := spec.num_nextn_predict_layers):
            longer = design(spec.longer)
            found = dataclasses.replace(found, further=FurtherLayers(count, longer.forms[-1], longer.kinds[-1]))
        return model.of(found, vocab, max_position, dtype, key=key)

    return Family(section, init, forms)


def design_of(
    spec: Any, activation: Activation | None = None, *, windowed: Rope | None = None, partial: float = 1.0, **other: Any
) -> Design:
    """The design that a section's common fields describe.

    Args:
        spec: The `DecoderSection`.
        activation: The activation function of the MLP. None: that of the section.
        windowed: The rotation of layers that see only a window. None: that of the others.
        partial: The part of each head's features that is rotated.
        other: Further fields of `Design`.
    """
    full = Rope(spec.rope_theta, spec.rope_scaling, partial)
    whole = BlockKind(full)
    kinds = {
        "full_attention": whole,
        "linear_attention": whole,  # a recurrent layer has no positions and no window
        "sliding_attention": BlockKind(windowed or full, spec.window),
    }
    return Design(
        sizes=spec.sizes(),
        kinds=tuple(kinds[kind] for kind in spec.layers_by_type),
        epsilon=spec.rms_norm_eps,
        std=spec.initializer_range,
        activation=activation or spec.hidden_act,
        **other,
    )


def mixture_of(
    spec: Any,
    *,
    normalised: bool = True,
    routing: Routing | None = None,
    combine: Gate | None = None,
    correction: float = 0.0,
) -> Mixture:
    """The experts that a section's common fields describe.

    The section's factor of the balance loss is for a loss that is the experts per token at an even load, ours for 1.

    Args:
        spec: The `ExpertsSection`.
        normalised: Whether the weights of a token's experts are divided by their sum.
        routing: The rule of the routers. None: the softmax over all experts.
        combine: See `Mixture`. None: that of the activation function of the section.
        correction: See `RouterLosses`.
    """
    sizes = spec.experts()
    return Mixture(
        sizes,
        routing or Routing(sizes.per_token, normalised=normalised),
        RouterLosses(spec.router_aux_loss_coef * sizes.per_token, spec.router_z_loss_coef, correction),
        combine or gate_of(spec.hidden_act),
    )
