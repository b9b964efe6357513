"""The names of the logical axes.

Models use these names and do not depend on the mesh; `halcyon.parallel.axes` maps names to mesh axes.
"""

from __future__ import annotations

from haliax import NamedArray

BATCH = "batch"
POSITION = "position"
KEY_POSITION = "key_position"
EMBED = "embed"
VOCAB = "vocab"
LAYERS = "layers"
HEADS = "heads"
QUERY_RANK = "query_rank"
"""Features of the latent vector of queries."""
KV_RANK = "kv_rank"
"""Features of the latent vector of keys and values."""
PLAIN_SIZE = "plain_size"
"""Features of a head that are not rotated, where they have a projection of their own."""
ROTARY_SIZE = "rotary_size"
"""Features of a head that are rotated, where they have a projection of their own."""
VALUE_SIZE = "value_size"
"""Features of a head's values, where their number differs from that of keys."""
TAPS = "taps"
"""The positions that a convolution sums over, the present one last."""
RANK = "rank"
"""Features between the two factors of a low-rank adapter."""
VALUE_GATE = "value_gate"
"""The first features of the residual stream, which the gate of a value embedding sees."""
SMEAR_GATE = "smear_gate"
"""The first features of an embedding, which the gate of a smear sees."""
SMEARED = "smeared"
"""The output of the gate of a smear; of size 1."""
KV_HEADS = "kv_heads"
Q_HEADS_PER_GROUP = "q_heads_per_group"
HEAD_SIZE = "head_size"
MLP = "mlp"
EXPERTS = "experts"
"""The experts that a device computes; their parameters are stacked along this axis."""
ROUTES = "routes"
"""The experts as outputs of a router. Every device has all of them, for its own tokens."""


def is_named(value: object) -> bool:
    """True for a NamedArray. It is the ``is_leaf`` of tree functions that treat named arrays as leaves."""
    return isinstance(value, NamedArray)
