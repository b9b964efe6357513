"""In which order a source's sequences are trained on: positions of an endless run to ranks of an epoch, by a pure function.

`Order` turns a position into an epoch and a place, and asks that epoch's own order, which is a keyed permutation (`permutation`) of all
sequences, or of blocks of them and then inside windows of blocks (`blocks`), or inside windows of the text (`windows`), or the order of the
text.
"""

from halcyon.data.order.epochs import Order, build_order
from halcyon.data.order.permutation import Permutation
from halcyon.data.order.together import answered

__all__ = ["Order", "Permutation", "answered", "build_order"]
