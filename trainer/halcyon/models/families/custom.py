"""A model of the user's own package, by the import path of its class.

The class is a subclass of `CausalLM` with two more members:

- ``Config``: called with the members of ``spec.model.config`` as keyword arguments, such as a dataclass or a
  pydantic model. It raises ``TypeError`` or ``ValueError`` for a configuration that the model does not take.
- ``init(config, vocab, max_position, dtype, *, key)``: makes a model with random parameters, as
  `halcyon.models.build_model` describes.

Import and configuration are checked before a device is initialised, so a mistake costs no accelerator.
"""

import difflib
import inspect
from importlib import import_module
from typing import Any

import haliax as hax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray
from pydantic import ValidationError

from halcyon.host.errors import BadConfiguration
from halcyon.models.families.family import Family
from halcyon.models.model import CausalLM
from halcyon_api.sentences import first_fault
from halcyon_api.spec.families.custom import CustomSpec

_CLASS, _CONFIG = "spec.model.class", "spec.model.config"


def _init(
    spec: CustomSpec, vocab: hax.Axis, max_position: hax.Axis, dtype: jnp.dtype, /, *, key: PRNGKeyArray
) -> CausalLM:
    """A model with random parameters.

    Raises:
        BadConfiguration: The class cannot build it, or see `custom_model`.
    """
    model, config = custom_model(spec)
    try:
        return model.init(config, vocab, max_position, dtype, key=key)
    except Exception as error:  # the class is not ours
        raise BadConfiguration(
            f"{_CLASS}: {model.__module__}:{model.__name__} cannot build the model ({type(error).__name__}: "
            f"{_first_line(error)}); correct the class or {_CONFIG}"
        ) from error


def custom_model(spec: CustomSpec) -> tuple[Any, Any]:
    """The class and the configuration of a custom model. Initialises no device.

    Raises:
        BadConfiguration: The class does not import, does not implement the model protocol, or does not take the
            configuration.
    """
    model = _imported(spec.class_)
    missing = _missing(model)
    if missing is not None:
        raise BadConfiguration(f"{_CLASS}: {spec.class_} {missing}; docs/guides/custom-models.md describes the class")
    try:
        return model, model.Config(**spec.config)
    except Exception as error:  # the class is not ours
        raise BadConfiguration(
            f"{_CONFIG}: {spec.class_} does not take it: {_first_line(error)}; correct the configuration"
        ) from None


def _imported(path: str) -> Any:
    module_name, _, name = path.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:  # the module is not ours
        raise BadConfiguration(
            f"{_CLASS}: {module_name} does not import ({type(error).__name__}: {_first_line(error)}); correct the "
            "path, name the folder of the package in PYTHONPATH on this machine, or take an image that has it"
        ) from None
    if not hasattr(module, name):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, CausalLM)]
        nearest = difflib.get_close_matches(name, classes, n=1, cutoff=0.0)
        hint = f"; the nearest model in it is {nearest[0]}" if nearest else ""
        raise BadConfiguration(f"{_CLASS}: the module {module_name} has no {name}{hint}; correct the path")
    return getattr(module, name)


def _missing(found: Any) -> str | None:
    """What a class lacks of the model protocol; None if nothing."""
    if not inspect.isclass(found) or not issubclass(found, CausalLM):
        return "is no subclass of halcyon.models.CausalLM"
    abstract = {*found.__abstractmethods__, *getattr(found, "__abstractvars__", ())}
    if abstract:
        return f"is abstract: it lacks {', '.join(sorted(abstract))}"
    lacking = [name for name in ("Config", "init") if not callable(getattr(found, name, None))]
    return f"lacks {' and '.join(lacking)}" if lacking else None


def _first_line(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, ValidationError):
        return first_fault(error)
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


CUSTOM = Family(CustomSpec, _init)
