"""The names of the logical axes. Models name their axes and know nothing of the mesh; `halcyon.parallel.axes` maps the names to it."""

from __future__ import annotations

from haliax import NamedArray

BATCH = "batch"
POSITION = "position"
KEY_POSITION = "key_position"
EMBED = "embed"
VOCAB = "vocab"
LAYERS = "layers"
HEADS = "heads"
KV_HEADS = "kv_heads"
Q_HEADS_PER_GROUP = "q_heads_per_group"
HEAD_SIZE = "head_size"
MLP = "mlp"


def is_named(value: object) -> bool:
    """True for a NamedArray: tree functions that treat named arrays as leaves take this as ``is_leaf``."""
    return isinstance(value, NamedArray)
