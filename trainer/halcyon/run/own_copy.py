"""A copy of a model on the devices of one process, so that each process asks the model its own examples.

A training spreads its parameters over the devices of all processes, so every use of them is a collective that all
processes must begin together. Texts end at different lengths, and programs that a model wrote run for different times,
so processes would wait for each other. With a copy on its own devices, a process computes its share of the examples
alone, and the answers are put together at the end. There all processes also learn of a preemption notice or an error of
one process, and end the tasks together.

The parameters go through the memory of the host, one array after the other. The copy has no padding of the vocabulary:
it is the model that `halcyon.load` reads from the checkpoint of the step.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import haliax as hax
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from halcyon.models import CausalLM, build_model
from halcyon.models.adapters import with_adapter
from halcyon.models.axes import POSITION, VOCAB
from halcyon.models.parts.attention_choice import Target, attending
from halcyon.models.softmax import logits_for
from halcyon_api.training_run import TrainingRunSpec

_AXIS = "own"


def own_shapes(spec: TrainingRunSpec, tokens: int) -> CausalLM:
    """The shapes of the copy of a run's model.

    Args:
        spec: The run's spec.
        tokens: Tokens of its tokenizer.
    """

    def build() -> CausalLM:
        vocab, positions = hax.Axis(VOCAB, tokens), hax.Axis(POSITION, spec.trainer.longest_sequence)
        model = build_model(
            spec.model, vocab, positions, dtype=spec.trainer.precision.parameters, key=jax.random.key(0)
        )
        return model if spec.lora is None else with_adapter(model, spec.lora, jax.random.key(0))

    return jax.eval_shape(build)


def own_copy(model: Any, shapes: CausalLM, devices: Sequence[Any] | None = None) -> CausalLM:
    """Copy a model. A collective if its parameters are spread over several processes.

    Args:
        model: The model of the training.
        shapes: See `own_shapes`.
        devices: The devices of the copy. Default: those of this process.

    Raises:
        Exception: The devices lack memory. It is raised after the last collective, so that no other process waits for
            this one.
    """
    devices = devices or jax.local_devices()
    wanted, tree = jax.tree.flatten(shapes)
    leaves = jax.tree.leaves(model)
    if len(leaves) != len(wanted):
        raise TypeError(f"the model has {len(leaves)} arrays, and its shapes have {len(wanted)}")
    copies: list[jax.Array] = []
    failure = None
    for leaf, shape in zip(leaves, wanted, strict=True):
        part = _on_host(leaf)[tuple(slice(0, size) for size in shape.shape)]
        try:
            if failure is None:
                copies.append(jax.device_put(part, _sharding(shape.shape, devices)))
        except Exception as error:  # the other processes still wait for this one at the next arrays
            failure, copies = error, []
    if failure is not None:
        raise failure
    return jax.tree.unflatten(tree, copies)


def help_copy(model: Any) -> None:
    """Take part in the collectives of `own_copy` on other processes, without a copy here."""
    for leaf in jax.tree.leaves(model):
        _on_host(leaf)


@contextlib.contextmanager
def tracing_own() -> Iterator[None]:
    """The context to ask the copy in.

    Kernels are written for one device, so several devices compute attention by XLA alone.
    """
    devices = jax.local_devices()
    if len(devices) == 1:
        yield
        return
    with attending("blockwise", Target.of(devices[0])), logits_for(devices[0]):
        yield


def gathered_bytes(process_count: int, mine: bytes) -> list[bytes]:
    """The bytes of each process, in the order of the processes, on every process. A collective."""
    if process_count == 1:
        return [mine]
    from jax.experimental import multihost_utils

    sizes = np.asarray(multihost_utils.process_allgather(np.array([len(mine)], np.int32))).reshape(-1)
    row = np.zeros(1 << max(0, int(sizes.max()) - 1).bit_length(), np.uint8)  # powers of two: few programs to compile
    row[: len(mine)] = np.frombuffer(mine, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(row)).reshape(process_count, -1)
    return [rows[place, :size].tobytes() for place, size in enumerate(sizes.tolist())]


def _on_host(leaf: Any) -> np.ndarray:
    """The whole array. A collective if it is spread over several processes."""
    if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _sharding(shape: tuple[int, ...], devices: Sequence[Any]) -> Sharding:
    """The longest dimension that the devices divide is split among them; an array without one is on each device."""
    if len(devices) == 1:
        return SingleDeviceSharding(devices[0])
    mesh, count = Mesh(np.array(devices), (_AXIS,)), len(devices)
    _, at = max(((size, place) for place, size in enumerate(shape) if size % count == 0 and size > 1), default=(0, -1))
    return NamedSharding(mesh, PartitionSpec(*(_AXIS if place == at else None for place in range(len(shape)))))
