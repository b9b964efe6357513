"""Skips imports that no model here uses, so that a process starts faster.

For layers that Halcyon does not have (quantised products, mixtures of experts with Pallas kernels) Haliax imports the packages AQT, Flax
and Pallas' Triton and Megablox parts: about one second of every start and restart, and nearly half of all imports. Optax imports optimizers
that are not used here. Inside `without_unused_parts` these modules are reported as missing if the importer accepts that, or are loaded at
their first use, or contain only placeholder names. Afterwards all imports work as usual. For a model that needs one of these modules,
delete its line here.

JAX 0.12 reads the metadata of every installed package, to find plugins for AMD's GPUs, which Halcyon does not support. Inside
`without_unused_parts` it finds no package.
"""

from __future__ import annotations

import gc
import importlib.metadata
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader, spec_from_loader
from types import ModuleType

_MISSING = frozenset({"jax.experimental.pallas.ops.tpu.megablox", "jax.experimental.pallas.triton"})
"""Haliax imports these in a ``try``, and its ragged products work without them."""
_LATER = frozenset({"aqt.jax.v2.config"})
"""Loaded at the first use of one of their names."""
_NAMES = {
    "aqt.jax.v2.aqt_dot_general": ("DotGeneral",),
    "optax.contrib": ("DifferentiallyPrivateAggregateState", "differentially_private_aggregate", "dpsgd"),
}
"""Only these names of the modules are needed: for annotations, or for aliases that Halcyon does not call."""


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname in _MISSING:
            raise ModuleNotFoundError(f"{fullname} is left out", name=fullname)
        if fullname in _NAMES:
            return spec_from_loader(fullname, _NamesLoader())
        found = PathFinder.find_spec(fullname, path, target) if fullname in _LATER else None
        if found is not None and found.loader is not None:
            found.loader = LazyLoader(found.loader)
        return found


class _NamesLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        for name in _NAMES[module.__name__]:
            setattr(module, name, type(name, (), {}))


@contextmanager
def without_collections() -> Iterator[None]:
    """Import without garbage collections, and exclude the imported objects from later collections.

    Modules contain almost no garbage, but every collection traverses them: this took a tenth of the time of the imports, and a fifth of the
    time to trace the program.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def without_unused_parts() -> Iterator[None]:
    """Import JAX, Haliax and Optax in this context, without the modules that Halcyon does not use."""
    finder, distributions = _Finder(), importlib.metadata.distributions
    sys.meta_path.insert(0, finder)
    importlib.metadata.distributions = lambda **_: ()
    try:
        yield
    finally:
        importlib.metadata.distributions = distributions
        sys.meta_path.remove(finder)
        for name in _NAMES:
            if isinstance(getattr(sys.modules.get(name), "__loader__", None), _NamesLoader):
                del sys.modules[name]
                parent, _, child = name.rpartition(".")
                vars(sys.modules[parent]).pop(child, None)
