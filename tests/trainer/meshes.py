"""Meshes of virtual devices."""

from __future__ import annotations

import math

import jax
from jax.sharding import Mesh

from halcyon.parallel.mesh import build_mesh
from halcyon_api.spec.mesh import ResolvedMesh

AXES = ("replica", "data", "fsdp", "tensor", "context")


def mesh_of(*sizes: int) -> Mesh:
    """The mesh with these sizes of `AXES`, over the first devices; axes without a size have 1."""
    named = dict.fromkeys(AXES[:4], 1) | dict(zip(AXES, sizes, strict=False))
    return build_mesh(ResolvedMesh(**named), jax.devices()[: math.prod(sizes)])
