"""Meshes over virtual devices."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from halcyon.parallel.mesh import build_mesh
from halcyon_api.spec.mesh import ResolvedMesh


def mesh_of(replica: int = 1, data: int = 1, fsdp: int = 1, tensor: int = 1, expert: int = 1, **further: int) -> Mesh:
    """A mesh of the first devices. All axes that are not given have size 1."""
    resolved = ResolvedMesh(replica=replica, data=data, fsdp=fsdp, tensor=tensor, expert=expert, **further)
    return build_mesh(resolved, jax.devices()[: resolved.devices])
