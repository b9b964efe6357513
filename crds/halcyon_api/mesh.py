"""The mesh of a run: as its document says, or suggested from the size of the model.

The suggestion, with P parameters of the model, B of one block, D devices of a slice, M bytes of memory of a device, w bytes of a stored
parameter, m of a stored moment and c of a parameter in a matrix product:

- ``tensor`` is the smallest power of two t, inside a host and dividing whatever the axis splits, for which
  ``P * (2w + 2m) / D + B * (w + c) / t <= 3/4 M``. The first term is a device's share of parameters, gradients and the two moments of
  AdamW; the second is one block gathered to compute with, and its gradients; a quarter is left to activations. Where no t fits, it is
  the largest one, or 1 if the first term alone is too much, for then no mesh helps. 1 where M is not known.
- ``fsdp`` is the greatest common divisor of ``D / t`` and the width of the model, which the axis splits.
- ``data`` is the rest.

P counts the embeddings by the vocabulary that the document tells; a tokenizer file is taken to have 131,072 tokens, so that everybody
who reads the document comes to the same mesh. A run keeps the mesh it began with: the operator pins the one on record (see `pinned`) and
tells it to the trainer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from halcyon_api.hardware import TABLE
from halcyon_api.spec.accelerator import Topology
from halcyon_api.spec.mesh import IciAxes, MeshSpec, ResolvedMesh, resolve_mesh
from halcyon_api.spec.tokenizer import VOCABULARY_MULTIPLE, TokenizerSpec
from halcyon_api.training_run import TrainingRunSpec

ASSUMED_VOCABULARY = 131_072
_TIKTOKEN_VOCABULARIES = {"gpt2": 50_257, "r50k_base": 50_257, "p50k_base": 50_281, "cl100k_base": 100_277, "o200k_base": 200_019}
_BYTES = {"float32": 4, "bfloat16": 2}
_MOMENTS = 2
"""Of AdamW."""


@dataclass(frozen=True)
class ModelSize:
    """What the suggestion asks of a model."""

    parameters: int
    block_parameters: int
    width: int
    splits: tuple[int, ...]
    """Sizes that the tensor axis must divide."""


def model_size(spec: TrainingRunSpec) -> ModelSize:
    """The size of a run's model, as far as its document tells (norms, biases and positions left out)."""
    vocabulary = _vocabulary(spec.tokenizer)
    if (llama := spec.model.llama) is not None:
        width = llama.hidden_size
        key_value = width // llama.heads * llama.key_value_heads
        block = 2 * width * width + 2 * width * key_value + 3 * width * llama.intermediate_size
        embeddings = vocabulary * width * (1 if llama.tie_embeddings else 2)
        return ModelSize(
            llama.layers * block + embeddings, block, width, (llama.key_value_heads, llama.intermediate_size, VOCABULARY_MULTIPLE)
        )
    if (gpt2 := spec.model.gpt2) is not None:
        width = gpt2.hidden_size
        block = 4 * width * width + 2 * width * gpt2.mlp_size
        return ModelSize(gpt2.layers * block + vocabulary * width, block, width, (gpt2.heads, gpt2.mlp_size, VOCABULARY_MULTIPLE))
    raise TypeError(f"no size for a model of kind {spec.model.kind}")


def suggest_axes(
    model: ModelSize, *, state_bytes: int, gathered_bytes: int, devices: int, devices_per_host: int, memory_bytes: int | None
) -> IciAxes:
    """The axes of one slice; the module's docstring has the formula.

    Args:
        model: Size of the model.
        state_bytes: Bytes a parameter of everything that is sharded: parameters, gradients, optimizer state.
        gathered_bytes: Bytes a parameter of a block that is gathered to be computed with, its gradient included.
        devices: Devices of a slice.
        devices_per_host: Devices that share the fastest links.
        memory_bytes: Memory of a device; None: not known.
    """
    sizes = [
        tensor
        for tensor in (2**power for power in range(devices_per_host.bit_length()))
        if devices % tensor == 0 and devices_per_host % tensor == 0 and all(split % tensor == 0 for split in model.splits)
    ]
    tensor = 1
    if memory_bytes is not None and 4 * state_bytes * model.parameters < 3 * memory_bytes * devices:
        room = 3 * memory_bytes * devices - 4 * state_bytes * model.parameters
        tensor = next((size for size in sizes if 4 * gathered_bytes * model.block_parameters * devices <= room * size), sizes[-1])
    fsdp = math.gcd(devices // tensor, model.width)
    return IciAxes(data=devices // tensor // fsdp, fsdp=fsdp, tensor=tensor)


def run_mesh(spec: TrainingRunSpec, topology: Topology | None = None) -> ResolvedMesh:
    """The mesh of a run on its own topology or on another one: the given one, or the suggestion.

    Raises:
        InvalidMesh: The given axes do not fit the topology.
    """
    topology = topology or spec.accelerator.resolve()
    return resolve_mesh(spec.mesh if spec.mesh is not None else MeshSpec(ici=_suggested(spec, topology)), topology)


def pinned(spec: TrainingRunSpec, recorded: ResolvedMesh | None = None) -> TrainingRunSpec:
    """The spec with its mesh written out, where the document has none: the recorded one if it fits the devices, else the suggestion."""
    if spec.mesh is not None:
        return spec
    topology = spec.accelerator.resolve()
    fits = recorded is not None and recorded.data * recorded.fsdp * recorded.tensor == topology.devices_per_slice
    axes = IciAxes(data=recorded.data, fsdp=recorded.fsdp, tensor=recorded.tensor) if recorded and fits else _suggested(spec, topology)
    # The field's own default is kept as it is written: hashes of the spec leave defaults out.
    plain = axes.data == 1 and axes.tensor == 1
    return spec.model_copy(update={"mesh": MeshSpec() if plain else MeshSpec(ici=axes)})


def least_memory(spec: TrainingRunSpec) -> int:
    """Bytes that parameters, and the optimizer state of a training, take over all devices that share them, and that nothing makes less."""
    precision = spec.trainer.precision
    stored, moments = _BYTES[precision.parameters], _MOMENTS * _BYTES[precision.moments]
    return {"train": stored + moments, "evaluate": stored, "data": 0}[spec.task] * model_size(spec).parameters


def gathers_once(spec: TrainingRunSpec, *, fsdp: int, tensor: int) -> bool:
    """Whether a device has room for all parameters, and a float32 sum of their gradients, beside its share of the state.

    A step of several microbatches then gathers and reduces once. Like the suggestion of a mesh this leaves a quarter of the memory to
    activations. False where the memory is not known.

    Args:
        spec: The run's spec.
        fsdp: Devices that share the state.
        tensor: Devices that share what is gathered.
    """
    memory_bytes = TABLE[spec.accelerator.type].memory_bytes
    stored = _BYTES[spec.trainer.precision.parameters]
    needed = model_size(spec).parameters * (_state_bytes(spec) + (stored + _BYTES["float32"]) * fsdp)
    return memory_bytes is not None and 4 * needed <= 3 * memory_bytes * fsdp * tensor


def _state_bytes(spec: TrainingRunSpec) -> int:
    """Bytes a parameter of parameters, gradients and moments."""
    precision = spec.trainer.precision
    return 2 * _BYTES[precision.parameters] + _MOMENTS * _BYTES[precision.moments]


def _suggested(spec: TrainingRunSpec, topology: Topology) -> IciAxes:
    precision = spec.trainer.precision
    stored, computed = _BYTES[precision.parameters], _BYTES[precision.compute]
    return suggest_axes(
        model_size(spec),
        state_bytes=_state_bytes(spec),
        gathered_bytes=stored + computed,
        devices=topology.devices_per_slice,
        devices_per_host=topology.devices_per_host,
        memory_bytes=TABLE[spec.accelerator.type].memory_bytes,
    )


def _vocabulary(tokenizer: TokenizerSpec) -> int:
    if tokenizer.byte is not None:
        return 259
    if tokenizer.bpe is not None:
        return tokenizer.bpe.vocab_size
    return _TIKTOKEN_VOCABULARIES[tokenizer.tiktoken.encoding] if tokenizer.tiktoken is not None else ASSUMED_VOCABULARY
