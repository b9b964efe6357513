"""Parts of a training that the caller of `halcyon.train` gives in the place of sections of the document: an Equinox
module, an Optax transformation, a loss function, batches (`halcyon.step.batches_override`).

**Model.** Its floating-point arrays are the parameters; everything else stays as given. Arrays without named axes are
whole on each device. In the training state each of them is a NamedArray too, as the step, the mesh and the checkpoints
expect; the loss and the transformation get them as they were given.

**Fingerprints.** A checkpoint knows the shapes of the parameters and of the optimizer state, the name of the loss
function and a hash of the first batch. So a run goes on only with the same objects, as far as this tells.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from haliax import NamedArray

from halcyon.host.errors import BadConfiguration
from halcyon.models import CausalLM
from halcyon.models.axes import is_named
from halcyon.models.parameters import dotted
from halcyon.step.batches_override import Batches
from halcyon.step.objectives.objective import Batch, Objective, Sums

Loss = Callable[[Any, Mapping[str, jax.Array], "jax.Array | None"], Any]
"""``loss(model, batch, key)``: the mean over the rows of a batch, as a scalar; or `Sums`."""
NAMES = ("model", "optimizer", "objective", "batches")
_PLAIN = object()
"""Stands in the fixed part of a module for an array that was given without named axes."""


_mapped: Any = functools.partial(jax.tree.map, is_leaf=lambda node: node is None or is_named(node))


@dataclass(frozen=True)
class ModelParts:
    """A module as the training state holds it.

    Attributes:
        parameters: The module with a NamedArray for each floating-point array, and None for everything else.
        fixed: The module with everything else.
    """

    parameters: Any
    fixed: Any

    @staticmethod
    def of(module: Any) -> ModelParts:
        """The parts of a module.

        Raises:
            BadConfiguration: It has no parameters.
        """

        def parameter(leaf: Any) -> Any:
            if is_named(leaf):
                return leaf if eqx.is_inexact_array(leaf.array) else None
            return (
                NamedArray(leaf, tuple(f"axis_{n}" for n in range(leaf.ndim))) if eqx.is_inexact_array(leaf) else None
            )

        def rest(leaf: Any, own: Any) -> Any:
            return leaf if own is None else None if is_named(leaf) else _PLAIN

        parameters = _mapped(parameter, module)
        if not jax.tree.leaves(parameters):
            raise BadConfiguration(f"model: {type(module).__name__} has no floating-point array, so nothing is trained")
        return ModelParts(parameters, _mapped(rest, module, parameters))

    def plain(self, tree: Any) -> Any:
        """A tree of the structure of the parameters, with arrays where the module has arrays without named axes."""
        return _mapped(lambda leaf, fixed: leaf.array if fixed is _PLAIN and is_named(leaf) else leaf, tree, self.fixed)

    def module(self, parameters: Any) -> Any:
        """The module with other parameters."""
        return _mapped(
            lambda leaf, fixed: fixed if leaf is None else leaf.array if fixed is _PLAIN else leaf,
            parameters,
            self.fixed,
        )

    def transformation(self, given: optax.GradientTransformation) -> optax.GradientTransformation:
        """A given transformation for the parameters of the training state."""

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            changes, state = given.update(self.plain(updates), state, self.plain(params))
            back = _mapped(
                lambda leaf, change: (
                    leaf if leaf is None else NamedArray(getattr(change, "array", change), leaf.axis_names)
                ),
                updates,
                changes,
            )
            return back, state

        return optax.GradientTransformation(lambda params: given.init(self.plain(params)), update)


@dataclass(frozen=True)
class ObjectiveOverride:
    """An objective of a given model or a given loss.

    Attributes:
        fields: The arrays of a batch.
        loss: The given loss. None: `own`.
        own: The objective of the document.
        parts: The given model. None: that of the document.
    """

    fields: Mapping[str, np.dtype]
    loss: Loss | None
    own: Objective
    parts: ModelParts | None

    @property
    def per_token(self) -> bool:
        """See `halcyon.step.objectives.objective.Objective`."""
        return self.loss is None and self.own.per_token

    def prepared(self, model: Any, batch: Batch) -> Batch:
        """See `halcyon.step.objectives.objective.Objective`."""
        return batch if self.loss is not None else self.own.prepared(self._whole(model), batch)

    def _whole(self, model: Any) -> Any:
        return model if self.parts is None else self.parts.module(model)

    def __call__(self, model: Any, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
        """See `halcyon.step.objectives.objective.Objective`."""
        whole = self._whole(model)
        if self.loss is None:
            return self.own(whole, batch, frozen, key)
        found = self.loss(whole, dict(batch), key)
        if isinstance(found, Sums):
            return found
        if np.shape(found) != ():
            what = f"an array of shape {list(np.shape(found))}" if hasattr(found, "shape") else type(found).__name__
            raise BadConfiguration(
                f"objective: the loss function returns {what}; return the mean over the rows as a scalar, or "
                "halcyon.Sums(loss, weight)"
            )
        rows = float(len(jax.tree.leaves(batch)[0]))
        return Sums(found * rows, jax.numpy.full((), rows))


@dataclass
class Overrides:
    """What the caller gives; None: the document has it. Each may be an import path, ``module:name``.

    Attributes:
        model: An Equinox module, or a function without arguments that makes it.
        optimizer: A gradient transformation of Optax, or a function without arguments that makes it.
        objective: A loss function.
        batches: See `Batches`, or a function without arguments that makes them.
    """

    model: Any = None
    optimizer: Any = None
    objective: Any = None
    batches: Any = None

    @property
    def names(self) -> dict[str, str | None]:
        """The import path of each object that is given; None: it was given without one."""
        return {
            name: value if isinstance(value, str) else None
            for name in NAMES
            if (value := getattr(self, name)) is not None
        }

    @property
    def warning(self) -> str | None:
        """Why the document and the names of the objects are not enough to go on with the run. None: they are."""
        missing = [name for name, path in self.names.items() if path is None]
        if not missing:
            return None
        several = len(missing) > 1
        return (
            f"{', '.join(missing)} {'were' if several else 'was'} given to halcyon.train without "
            f"{'import paths' if several else 'an import path'}, so only a program with the same "
            f"{'objects' if several else 'object'} can go on with this run, not its document"
        )

    @functools.cached_property
    def parts(self) -> ModelParts | None:
        """The given model. Its first use may make it, so it follows the choice of devices."""
        if self.model is None:
            return None
        module = _made("model", self.model, eqx.Module, "an Equinox module")
        if not isinstance(module, CausalLM) and (self.objective is None or self.optimizer is None):
            raise BadConfiguration(
                f"model: {type(module).__name__} is no halcyon.models.CausalLM, which the document's loss and update "
                "rule need; give objective and optimizer too"
            )
        return ModelParts.of(module)

    @functools.cached_property
    def transformation(self) -> optax.GradientTransformation | None:
        """The given transformation, for the parameters of the training state."""
        if self.optimizer is None:
            return None
        found = _made("optimizer", self.optimizer, optax.GradientTransformation, "a gradient transformation of Optax")
        if self.parts is not None:
            return self.parts.transformation(found)
        return optax.GradientTransformation(
            found.init, lambda updates, state, params=None: found.update(updates, state, params)
        )

    @functools.cached_property
    def loss(self) -> Loss | None:
        """The given loss function."""
        found = _imported("objective", self.objective)
        if found is not None and not callable(found):
            raise BadConfiguration(
                f"objective: it is a {type(found).__name__}; give a function loss(model, batch, key)"
            )
        return found

    @functools.cached_property
    def source(self) -> Batches | None:
        """The given batches."""
        found = _imported("batches", self.batches)
        if callable(found) and not hasattr(found, "__iter__") and not hasattr(found, "__getitem__"):
            found = found()
        return None if found is None else Batches(found)

    def objective_of(self, own: Objective) -> Objective:
        """The objective of the run.

        Args:
            own: The objective of the document.

        Raises:
            BadConfiguration: The batches lack an array of the document's objective.
        """
        source = self.source
        if source is None and self.loss is None and self.parts is None:
            return own
        if source is not None and self.loss is None and (missing := own.fields.keys() - source.rows.shapes.keys()):
            raise BadConfiguration(
                f"batches: the document's loss needs the array {min(missing)}, and a batch has "
                f"{', '.join(source.rows.shapes)}; add it, or give objective"
            )
        fields = own.fields if source is None else source.rows.types
        return ObjectiveOverride(fields, self.loss, own, self.parts)

    def description(self, optimizer_state: Any) -> dict[str, str]:
        """What the fingerprints of the run's data contain of the objects.

        Args:
            optimizer_state: Shapes of the optimizer state.
        """
        found: dict[str, str] = {}
        if self.parts is not None:
            found["model"] = f"{type(self.parts.parameters).__name__} with arrays {_shapes(self.parts.parameters)}"
        if self.transformation is not None:
            found["optimizer"] = f"state {_shapes(optimizer_state)}"
        if self.loss is not None:
            found["objective"] = getattr(self.loss, "__qualname__", type(self.loss).__qualname__)
        if self.source is not None:
            found["batches"] = f"first batch {self.source.digest[:16]}"
        return found


def _imported(what: str, given: Any) -> Any:
    """An object, or what its import path names."""
    if not isinstance(given, str):
        return given
    module, _, name = given.partition(":")
    try:
        return functools.reduce(getattr, name.split("."), import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise BadConfiguration(f"{what}: {given} is no import path module:name of an object: {error}") from None


def _made(what: str, given: Any, kind: type, name: str) -> Any:
    found = _imported(what, given)
    if not isinstance(found, kind) and callable(found):
        found = found()
    if not isinstance(found, kind):
        raise BadConfiguration(f"{what}: it is a {type(found).__name__}; give {name}, or a function that makes it")
    return found


def _shapes(tree: Any) -> str:
    """A hash of the paths, shapes and types of a tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    text = "\n".join(f"{dotted(path)} {np.shape(leaf)} {leaf.dtype}" for path, leaf in leaves)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
