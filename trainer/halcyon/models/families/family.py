"""What Halcyon knows of a model family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models.model import CausalLM
from halcyon.models.published import PublishedForm
from halcyon_api.base import ApiModel

Section = TypeVar("Section", bound=ApiModel)
Design = TypeVar("Design")
OfDesign = TypeVar("OfDesign", contravariant=True)


class InitModel(Protocol[OfDesign]):
    """Makes a model with random parameters from a design; see `halcyon.models.build_model`."""

    def __call__(
        self, design: OfDesign, vocab: Axis, max_position: Axis, dtype: jnp.dtype, /, *, key: PRNGKeyArray
    ) -> CausalLM:
        """The model."""
        ...


@dataclass(frozen=True)
class Family(Generic[Section, Design]):
    """A family: its section of ``spec.model``, the model of a section, and its forms in the files of Hugging Face.

    Attributes:
        section: The class of its section.
        design: What the decoder of a section is made of.
        init: Makes the model, mostly `halcyon.models.decoder.Decoder.of`.
        forms: The classes of transformers that compute models of the family. Empty: it cannot be imported or exported.
    """

    section: type[Section]
    design: Callable[[Section], Design]
    init: InitModel[Design]
    forms: tuple[PublishedForm, ...] = ()

    def build(
        self, section: Section, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray
    ) -> CausalLM:
        """A model with random parameters; see `halcyon.models.build_model`."""
        return self.init(self.design(section), vocab, max_position, dtype, key=key)


def itself(section: Any) -> Any:
    """The design of a family whose model has a class of its own: its section."""
    return section
