"""Text from a model that is divided among several devices of one process (tensor parallelism, Shoeybi et al. 2019).

The heads, the features of the MLP and the vocabulary are divided, and with the heads the cache. All devices compute all
texts together. An engine finds the mesh in the arrays of its model.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from halcyon.errors import BadConfiguration
from halcyon.parallel.axes import undivided, with_shardings
from halcyon.parallel.mesh import build_mesh
from halcyon.parallel.partition import computing
from halcyon_api.counting import counted
from halcyon_api.spec.mesh import ResolvedMesh

_FORM = re.compile(r"tensor=([1-9][0-9]{0,3})")


def tensor_mesh(text: str) -> Mesh:
    """The mesh of the option ``--mesh``.

    Args:
        text: ``tensor=N``: the model is divided among N devices.

    Raises:
        BadConfiguration: It has another form, or this process has fewer devices.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise BadConfiguration(
            f"--mesh {text}: only the axis tensor can divide a model that writes text; give tensor=N, such as tensor=2"
        )
    count, devices = int(found[1]), jax.local_devices()
    if count > len(devices):
        raise BadConfiguration(
            f"--mesh {text}: this process has {counted(len(devices), 'device')}; give tensor={len(devices)} or less"
        )
    return build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, tensor=count), devices[:count])


def with_mesh(shapes: Any, mesh: Mesh) -> Any:
    """The shapes of a model, with the part of each device.

    Args:
        shapes: The model, with shapes in the place of arrays.
        mesh: A mesh of `tensor_mesh`.

    Raises:
        BadConfiguration: The mesh does not divide an axis of the model.
    """
    found = undivided(shapes, mesh)
    if found is not None:
        raise BadConfiguration(
            f"--mesh: tensor={found.parts} does not divide the {found.axis.size} {found.axis.name} of the model; "
            f"give a divisor of {found.axis.size}"
        )
    return with_shardings(shapes, mesh)


def mesh_of(model: Any) -> Mesh | None:
    """The mesh among whose devices a model is divided by `with_mesh`; None: it is not divided so."""
    for leaf in jax.tree.leaves(model):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            mesh = sharding.mesh
            return mesh if isinstance(mesh, Mesh) and dict(mesh.shape).get("tensor") == mesh.size else None
    return None


def context_of(mesh: Mesh | None) -> contextlib.AbstractContextManager[None]:
    """The context in which the programs of a model are traced and called."""
    return contextlib.nullcontext() if mesh is None else computing(mesh)
