"""How many bytes of logits a device holds at a time, and the number of blocks of positions that follows from it.

Each block of the loss reads and writes the float32 gradient of the whole head, so many small blocks move many bytes. A
large block takes memory while all activations of the step are kept. So a block may take a share of the device's memory
(docs/design/numbers.md has the bytes of a step). The share is rounded down to a power of two, so that a corrected size
in the hardware table does not change the order in which a run adds up the gradient.

The device belongs to the run, not to a model. So the code that traces the model names it by `logits_for`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

import jax

from halcyon_api.hardware import row_of_device

LEAST_LOGIT_BYTES = 1 << 28
"""Bytes of logits on devices with little memory, and where the memory is not known, as on processors."""
MOST_LOGIT_BYTES = 1 << 31
"""With larger blocks, the bytes that each block repeats are few beside those of the logits themselves."""
_SHARE = 32
"""A block has at most this part of the memory.

The loss holds its logits in float32, and their gradient in the compute type.
"""


class Device(Protocol):
    """The attribute that every ``jax.Device`` has."""

    @property
    def device_kind(self) -> str:
        """JAX's name of the kind of device, such as ``NVIDIA H200``."""
        ...


def logit_bytes(memory_bytes: int | None) -> int:
    """Bytes of logits that a device holds at a time.

    Args:
        memory_bytes: Its memory. None: not known.
    """
    if memory_bytes is None:
        return LEAST_LOGIT_BYTES
    share = 1 << (memory_bytes // _SHARE).bit_length() - 1
    return min(MOST_LOGIT_BYTES, max(LEAST_LOGIT_BYTES, share))


def block_count(positions: int, bytes_of_all: int, most: int) -> int:
    """The smallest number of equal blocks of positions whose logits have at most `most` bytes each.

    Args:
        positions: Positions on this device. The number of blocks divides them.
        bytes_of_all: Bytes of the logits of all of them, in all rows.
        most: Most bytes of a block. A block has one position at least.
    """
    wanted = max(1, min(-(-bytes_of_all // most), positions))
    return next(count for count in range(wanted, positions + 1) if positions % count == 0)


_most: ContextVar[int | None] = ContextVar("halcyon-logit-bytes", default=None)


@contextlib.contextmanager
def logits_for(device: Device) -> Iterator[None]:
    """Trace models in this context with blocks of logits for a device of this kind."""
    token = _most.set(_of_device(device))
    try:
        yield
    finally:
        _most.reset(token)


def most_logit_bytes() -> int:
    """Bytes of logits that a device of the context holds at a time.

    Without a context: the first device of this process.
    """
    return _most.get() or _of_device(jax.devices()[0])


def _of_device(device: Device) -> int:
    row = row_of_device(device.device_kind)
    return logit_bytes(None if row is None else row.memory_bytes)
