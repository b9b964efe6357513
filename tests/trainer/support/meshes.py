"""Meshes over virtual devices."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from halcyon.parallel.device_mesh import build_mesh
from halcyon_api.spec.mesh import ResolvedMesh


def mesh_of(
    replica: int = 1, data: int = 1, fsdp: int = 1, tensor: int = 1, *, expert: int = 1, context: int = 1
) -> Mesh:
    """A mesh of the first devices. All axes that are not given have size 1."""
    resolved = ResolvedMesh(replica=replica, data=data, fsdp=fsdp, expert=expert, context=context, tensor=tensor)
    return build_mesh(resolved, jax.devices()[: resolved.devices])


def mesh_from(text: str) -> Mesh:
    """The mesh of a text such as ``fsdp 4 x tensor 2``, the form of `halcyon_api.spec.mesh.product`."""
    sizes = (part.split() for part in text.split(" x "))
    return mesh_of(**{axis: int(size) for axis, size in sizes})
