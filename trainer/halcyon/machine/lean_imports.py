"""Leaves out of a start what no model here uses.

Haliax imports, for layers that Halcyon does not have (quantised products, mixtures of experts by Pallas kernels), the packages AQT, Flax
and Pallas' Triton and Megablox parts: about a second of every start and restart, and near half of all imports. Optax imports optimizers
that are not used here. In the block of `without_unused_parts` they are reported as missing, where the importer accepts that, or are loaded
at their first use. Afterwards all imports work as usual. A model that needs one of them takes its line out here.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader, spec_from_loader
from types import ModuleType

_MISSING = frozenset({"jax.experimental.pallas.ops.tpu.megablox", "jax.experimental.pallas.triton"})
"""Haliax asks for these in a ``try``, and its ragged products do without them."""
_LATER = frozenset({"aqt.jax.v2.config"})
"""Loaded at the first use of a name in them."""
_NAMES = {
    "aqt.jax.v2.aqt_dot_general": ("DotGeneral",),
    "optax.contrib": ("DifferentiallyPrivateAggregateState", "differentially_private_aggregate", "dpsgd"),
}
"""Of these only the names are needed: for annotations, or to be names elsewhere too, by which they are not called here."""


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
    """Import in here, and have no more of it: the garbage collector looks through all that was imported again and again.

    There is next to no garbage in modules, so what is there afterwards is never looked through again: neither by the imports themselves,
    of which that was a tenth, nor when the program is traced, of which it was a fifth.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def without_unused_parts() -> Iterator[None]:
    """Import Haliax and Optax in here."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in _NAMES:
            if isinstance(getattr(sys.modules.get(name), "__loader__", None), _NamesLoader):
                del sys.modules[name]
                parent, _, child = name.rpartition(".")
                vars(sys.modules[parent]).pop(child, None)
