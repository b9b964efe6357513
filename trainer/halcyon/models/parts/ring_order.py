"""Which positions each device of a ring holds, and which blocks of keys its queries see at each step: tables made
before anything runs.

A sequence is cut into equal *runs* of positions. In the order ``contiguous`` a device holds one run. In the order
``zigzag`` there are two runs for each device: device i of n holds the runs i and 2n - 1 - i. Under a causal mask the
work of a run grows with its index, so all devices then have the same work at each step (Brandon et al. 2023, Striped
Attention; the pairing is that of Llama 3, section 3.3.2).
"""

from dataclasses import dataclass

import numpy as np

from halcyon.models.parts.masks import Mask


@dataclass(frozen=True)
class RingOrder:
    """The order of positions, and the work that a mask leaves. Blocks are counted in the order in which a device holds
    its positions.

    Attributes:
        devices: Parts of the sequence.
        block: Queries, and keys, that are computed together.
        zigzag: Whether the order is ``zigzag``.
        firsts: Position of the first element of each block: [device, block].
        begin: First visible block of keys, in each run of the device that the keys come from: [device, source, block of
            queries, run].
        end: End of the visible blocks, excluded, like `begin`.
    """

    devices: int
    block: int
    zigzag: bool
    firsts: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    @property
    def work(self) -> np.ndarray:
        """Pairs of blocks that each device computes at each step: [step, device].

        At step s, keys come from device d - s.
        """
        pairs = (self.end - self.begin).sum((2, 3))
        devices = np.arange(self.devices)
        return np.stack([pairs[devices, (devices - step) % self.devices] for step in range(self.devices)])

    @property
    def steps(self) -> int:
        """Steps until no device sees further keys; at least 1."""
        busy = np.flatnonzero(self.work.sum(1))
        return int(busy[-1]) + 1 if len(busy) else 1

    @property
    def duration(self) -> int:
        """Pairs of blocks that the slowest devices compute one after the other."""
        return int(self.work.max(1).sum())


def ring_order(mask: Mask | None, positions: int, devices: int, block: int) -> RingOrder:
    """The order with the shorter duration; ``contiguous`` if they differ by less than a tenth, because ``zigzag`` moves
    positions.

    Args:
        mask: The keys that a query sees; None: all.
        positions: Positions of the whole sequence, a multiple of `devices`.
        devices: Parts of the sequence.
        block: The largest number of queries, and of keys, that are computed together.
    """
    share = positions // devices
    run = share // 2 if share % 2 == 0 else share
    block = _fitting(block, run)
    contiguous = _order(mask, positions, devices, block, zigzag=False)
    if devices == 1 or share % 2:
        return contiguous
    zigzag = _order(mask, positions, devices, block, zigzag=True)
    return zigzag if zigzag.duration < 0.9 * contiguous.duration else contiguous


def zigzag_runs(devices: int) -> np.ndarray:
    """The two runs of each device in the order ``zigzag``: [device, 2]."""
    low = np.arange(devices)
    return np.stack((low, 2 * devices - 1 - low), 1)


def _fitting(block: int, run: int) -> int:
    """The size of a block that divides a run: the largest one up to `block`, or the next larger one if that is much
    smaller.
    """
    sizes = [size for size in range(1, run + 1) if run % size == 0]
    below, above = (
        max(size for size in sizes if size <= block),
        min((size for size in sizes if size >= block), default=run),
    )
    return below if 4 * below >= min(block, run) else above


def _order(mask: Mask | None, positions: int, devices: int, block: int, *, zigzag: bool) -> RingOrder:
    runs = zigzag_runs(devices) if zigzag else np.arange(devices)[:, None]
    size = positions // runs.size
    starts = runs * size
    firsts = (starts[:, :, None] + np.arange(0, size, block)).reshape(devices, -1)
    ranges = [
        (0, positions) if mask is None else mask.key_range(at, at + block - 1, positions)
        for at in range(0, positions, block)
    ]
    seen = np.array(ranges, np.int64)[firsts // block]  # [device, block of queries, 2]
    offset = np.arange(starts.shape[1]) * (size // block)
    low = (seen[:, None, :, None, 0] - starts[None, :, None, :]) // block
    high = -((starts[None, :, None, :] - seen[:, None, :, None, 1]) // block)
    begin = np.clip(low, 0, size // block)
    end = np.maximum(begin, np.clip(high, 0, size // block))
    return RingOrder(
        devices,
        block,
        zigzag,
        firsts.astype(np.int32),
        (begin + offset).astype(np.int32),
        (end + offset).astype(np.int32),
    )
