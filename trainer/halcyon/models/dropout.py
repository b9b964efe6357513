"""Dropout (Srivastava et al. 2014): a random share of an array is set to 0, and the rest is divided by the share that
is left, so the mean stays.

A mask is a pure function of one number for each sequence, the site, and the place in the array of that sequence. The
step makes the numbers from the run's seed, the step and the row of the batch (`halcyon.step.gradients`), so neither the
mesh, the microbatches, the processes nor a restart change a mask. The backward pass computes it again.

A module has sites only in a training step: `with_sites` puts them there for one microbatch. A model without sites, as
in evaluations and as a reference, drops nothing, and its program has no operation for it.
"""

import dataclasses
import zlib
from typing import Any, TypeVar

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import BATCH, MEL, POSITION, elementwise, recomputed
from halcyon.models.parameters import dotted
from halcyon.models.stack import Stack
from halcyon_api.spec.trainer import DropoutSpec

Model = TypeVar("Model")

RUN = 10
"""Frames, or bands, of a run that `masked` sets to 0."""


class Dropout(eqx.Module):
    """One site.

    Attributes:
        rate: Share that is set to 0.
        seeds: One number for each sequence: uint32 (*stacked, batch).
    """

    rate: float = eqx.field(static=True)
    seeds: NamedArray

    def __call__(self, x: NamedArray) -> NamedArray:
        """(batch, ...) to the same axes and type."""
        return dropped(x, self.seeds, self.rate)


class WithSites(eqx.Module):
    """A module with sites of dropout."""

    sites: tuple[Dropout, ...] = eqx.field(default=(), kw_only=True)
    """Empty: nothing is dropped."""

    def at_site(self, number: int, x: NamedArray) -> NamedArray:
        """`x` after the dropout of a site."""
        return self.sites[number](x) if self.sites else x


def site_seeds(seeds: jax.Array, name: str, stacked: tuple[Axis, ...] = ()) -> NamedArray:
    """The numbers of a site: uint32 (*stacked, batch).

    Args:
        seeds: One number for each sequence: uint32 [batch].
        name: Name of the site.
        stacked: Axes of stacked modules, each with a site of its own.
    """
    site, shape = zlib.crc32(name.encode()), [axis.size for axis in stacked]
    own = jax.vmap(lambda seed: jax.random.bits(jax.random.fold_in(jax.random.key(seed), site), shape, jnp.uint32))(
        seeds
    )
    return hax.named(jnp.moveaxis(own, 0, -1), (*stacked, Axis(BATCH, len(seeds))))


def dropped(x: NamedArray, seeds: NamedArray, rate: float) -> NamedArray:
    """`x` with a share `rate` of it set to 0.

    Args:
        x: (batch, ...).
        seeds: One number for each sequence: uint32 (batch).
        rate: Below 1.
    """
    names, kept = x.axis_names, 1 - rate
    of_sequence = [axis.size for axis in x.axes if axis.name != BATCH]

    def drop(x: jax.Array, seeds: jax.Array) -> jax.Array:
        masks = jax.vmap(lambda seed: jax.random.bernoulli(jax.random.key(seed), kept, of_sequence))(seeds.reshape(-1))
        return jnp.where(jnp.moveaxis(masks, 0, names.index(BATCH)), x / kept, 0).astype(x.dtype)

    return elementwise(recomputed(drop), x, seeds)


def masked(sound: NamedArray, rates: DropoutSpec, seeds: jax.Array) -> NamedArray:
    """The features of sounds with runs of frames, and of bands, set to 0: SpecAugment (Park et al. 2019, section 2)
    without warping, as `transformers` masks for Whisper.

    Args:
        sound: (batch, position, mel).
        rates: ``spec.trainer.dropout``: a run begins anywhere with a chance of the share divided by its length.
        seeds: One number for each sequence: uint32 [batch].
    """
    for name, rate in ((POSITION, rates.frames), (MEL, rates.bands)):
        if not rate:
            continue
        own, size = site_seeds(seeds, f"sound.{name}").array, sound.axis_size(name)
        begun = jax.vmap(
            lambda seed, size=size, rate=rate: jax.random.bernoulli(jax.random.key(seed), rate / RUN, (size,))
        )(own)
        counts = jnp.cumsum(begun, 1)
        covered = counts > jnp.pad(counts, ((0, 0), (RUN, 0)))[:, :size]
        sound = elementwise(lambda x, covered: jnp.where(covered, 0, x), sound, hax.named(covered, (BATCH, name)))
    return sound


def with_sites(model: Model, rates: DropoutSpec, seeds: jax.Array) -> Model:
    """`model` with its sites of dropout.

    Args:
        model: A model of a family.
        rates: ``spec.trainer.dropout``.
        seeds: One number for each sequence of the microbatch: uint32 [batch].
    """

    def site(rate: float, name: str, stacked: tuple[Axis, ...] = ()) -> Dropout:
        return Dropout(rate, site_seeds(seeds, name, stacked))

    def in_block(name: str, block: Any, stacked: tuple[Axis, ...]) -> Any:
        if rates.residual:
            sites = tuple(site(rates.residual, f"{name}.{part}", stacked) for part in ("attention", "mlp"))
            block = dataclasses.replace(block, sites=sites)
        if rates.attention and isinstance(block.attention, WithSites):  # a gated delta net has no weights of keys
            scores = (site(rates.attention, f"{name}.scores", stacked),)
            block = dataclasses.replace(block, attention=dataclasses.replace(block.attention, sites=scores))
        return block

    def is_place(node: Any) -> bool:
        return isinstance(node, Stack) or (isinstance(node, WithSites) and node is not model)

    def one(path: Any, node: Any) -> Any:
        if isinstance(node, Stack):
            return dataclasses.replace(node, stacked=in_block(dotted(path), node.stacked, (node.layers,)))
        return in_block(dotted(path), node, ()) if is_place(node) else node

    found: Any = jax.tree_util.tree_map_with_path(one, model, is_leaf=is_place)
    return dataclasses.replace(found, sites=(site(rates.embedding, "embedding"),)) if rates.embedding else found
