"""The mesh of a run: the mesh of its document, or one suggested from the size of the model.

The suggestion, with P parameters of the model, B of one block, D devices of a slice, M bytes of memory of a device, w
bytes of a stored parameter, m of a stored moment and c of a parameter in a matrix product:

- ``tensor`` is the smallest power of two t that fits in a host, divides the sizes that the axis splits, and for which
  ``P * (2w + 2m) / D + B * (w + c) / t <= 3/4 M``. The first term is a device's share of parameters, gradients and the
  two moments of AdamW; the second is one block gathered for computation, and its gradients; a quarter of the memory is
  for activations. If no t fits, it is the largest t, or 1 if the first term alone is too large, because then no mesh
  helps. It is 1 if M is not known.
- ``fsdp`` is the greatest common divisor of ``D / t`` and the width of the model, which the axis splits.
- ``data`` is D divided by the other two.
- ``expert`` is 1: a run with experts splits them only if its document says so.

P counts the embeddings by the vocabulary of the document; a tokenizer file counts as 131,072 tokens, so that every
reader of the document computes the same mesh. A run keeps the mesh of its first attempt: the operator pins the recorded
mesh (see `pinned`) and sends it to the trainer.
"""

import math

from halcyon_api.hardware import TABLE
from halcyon_api.objectives import has_reference_copy
from halcyon_api.spec.accelerator import Topology
from halcyon_api.spec.adapter import BASES
from halcyon_api.spec.mesh import REST, IciAxes, MeshSpec, ResolvedMesh, axis, on, resolve_mesh
from halcyon_api.spec.model_shape import ModelShape
from halcyon_api.spec.tokenizer import VOCABULARY_MULTIPLE, TokenizerSpec
from halcyon_api.training_run import TrainingRunSpec

ASSUMED_VOCABULARY = 131_072
_TIKTOKEN_VOCABULARIES = {
    "gpt2": 50_257,
    "r50k_base": 50_257,
    "p50k_base": 50_281,
    "cl100k_base": 100_277,
    "o200k_base": 200_019,
}
WIDTHS = {"float32": 4, "bfloat16": 2, "float8": 1}
"""Bytes of a number of each type."""


def model_shape(spec: TrainingRunSpec, unknown_vocabulary: int = ASSUMED_VOCABULARY) -> ModelShape:
    """The shape of a run's model, with the vocabulary of its document; `unknown_vocabulary` tokens if only the
    tokenizer's file says.
    """
    return spec.model.shape(_rows(spec, unknown_vocabulary), spec.trainer.longest_sequence)


def _rows(spec: TrainingRunSpec, unknown_vocabulary: int) -> int:
    """Rows of the table of tokens, padding included."""
    return -(-document_vocabulary(spec.tokenizer, unknown_vocabulary) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def suggest_axes(
    model: ModelShape,
    *,
    state_bytes: float,
    gathered_bytes: int,
    devices: int,
    devices_per_host: int,
    memory_bytes: int | None,
) -> IciAxes:
    """The axes of one slice; the module's docstring has the formula.

    Args:
        model: Shape of the model.
        state_bytes: Bytes per parameter of the sharded state: parameters, gradients, optimizer state.
        gathered_bytes: Bytes per parameter of a block that is gathered for computation, its gradient included.
        devices: Devices of a slice.
        devices_per_host: Devices that share the fastest links.
        memory_bytes: Memory of a device; None: not known.
    """
    splits = [*_sizes(model, "tensor"), VOCABULARY_MULTIPLE]
    sizes = [
        tensor
        for tensor in (2**power for power in range(devices_per_host.bit_length()))
        if devices % tensor == 0 and devices_per_host % tensor == 0 and all(split % tensor == 0 for split in splits)
    ]
    tensor = 1
    if memory_bytes is not None and 4 * state_bytes * model.parameters < 3 * memory_bytes * devices:
        room = 3 * memory_bytes * devices - 4 * state_bytes * model.parameters
        tensor = next(
            (size for size in sizes if 4 * gathered_bytes * model.block_parameters * devices <= room * size), sizes[-1]
        )
    fsdp = math.gcd(devices // tensor, *_sizes(model, "fsdp"))
    return IciAxes(data=devices // tensor // fsdp, fsdp=fsdp, tensor=tensor)


def _sizes(model: ModelShape, name: str) -> list[int]:
    """The sizes of the model that a mesh axis must divide."""
    return [split.size for split in model.splits if split.axis in axis(name).splits]


def run_mesh(spec: TrainingRunSpec, topology: Topology | None = None) -> ResolvedMesh:
    """The mesh of a run on its own topology or on another one: the mesh of the document, or the suggestion.

    Raises:
        InvalidMesh: The given axes do not fit the topology.
    """
    topology = topology or spec.accelerator.resolve()
    return resolve_mesh(spec.mesh if spec.mesh is not None else MeshSpec(ici=_suggested(spec, topology)), topology)


def pinned(spec: TrainingRunSpec, recorded: ResolvedMesh | None = None) -> TrainingRunSpec:
    """The spec with its mesh set if the document has none: the recorded mesh if it fits the devices, else the
    suggestion.
    """
    if spec.mesh is not None:
        return spec
    topology = spec.accelerator.resolve()
    fits = recorded and recorded.devices_per_slice == topology.devices_per_slice
    axes = (
        IciAxes(**{row.name: recorded.size(row.name) for row in on("ici")})
        if recorded and fits
        else _suggested(spec, topology)
    )
    # Use the default section where it means the same mesh: hashes of the spec leave defaults out.
    plain = all(row.default in (REST, getattr(axes, row.name)) for row in on("ici"))
    return spec.but(mesh=MeshSpec() if plain else MeshSpec(ici=axes))


def gathers_once(spec: TrainingRunSpec, *, fsdp: int, tensor: int) -> bool:
    """Whether a device has room for all parameters, a float32 sum of their gradients and the gradients of one
    microbatch, which are added to it, in addition to its share of the state.

    A step of several microbatches then gathers and reduces once. A quarter of the memory is for activations, as in the
    suggestion of a mesh. False if the memory is not known.

    Args:
        spec: The run's spec.
        fsdp: Devices that share the state.
        tensor: Devices that share the gathered parameters.
    """
    memory_bytes = TABLE[spec.accelerator.type].memory_bytes
    stored = WIDTHS[spec.trainer.precision.parameters]
    sums = 2 * WIDTHS["float32"] if spec.adapter is None else 0
    needed = model_shape(spec).parameters * (_state_bytes(spec) + (stored + sums + reference_bytes(spec)) * fsdp)
    return memory_bytes is not None and 4 * needed <= 3 * memory_bytes * fsdp * tensor


def parameter_bytes(spec: TrainingRunSpec, unknown_vocabulary: int = ASSUMED_VOCABULARY) -> float:
    """Least bytes of a parameter at rest, in the mean over the model: codes (``adapter.lora.base``) hold at most all
    but one table of tokens.
    """
    width = WIDTHS[spec.trainer.precision.parameters]
    if spec.lora is None or spec.lora.base is None:
        return width
    shape = model_shape(spec, unknown_vocabulary)
    table = _rows(spec, unknown_vocabulary) * shape.width / max(shape.parameters, 1)
    return table * width + (1 - table) * BASES[spec.lora.base].bytes_per_weight


def _state_bytes(spec: TrainingRunSpec) -> float:
    """Bytes per parameter of parameters, gradients, moments, the average of the parameters, and the reference model.

    Parameters beside an adapter are frozen and have only themselves.
    """
    precision = spec.trainer.precision
    if spec.adapter is not None:
        return parameter_bytes(spec) + teacher_bytes(spec)
    moments = spec.optimizer.usual_moments * WIDTHS[precision.moments]
    return (
        2 * WIDTHS[precision.parameters] + moments + average_bytes(spec) + reference_bytes(spec) + teacher_bytes(spec)
    )


def reference_bytes(spec: TrainingRunSpec) -> int:
    """Bytes per parameter of the models that ``spec.objective`` keeps beside the trained one, in the type of the
    parameters.
    """
    copies = has_reference_copy(spec) + (spec.objective.policy is not None and spec.objective.policy.has_sampler)
    return copies * WIDTHS[spec.trainer.precision.parameters]


def teacher_bytes(spec: TrainingRunSpec, unknown_vocabulary: int = ASSUMED_VOCABULARY) -> float:
    """Bytes of ``spec.objective.teacher``, per parameter of the trained model."""
    teacher = spec.objective.teacher
    if teacher is None:
        return 0
    sizes = _rows(spec, unknown_vocabulary), spec.trainer.longest_sequence
    width = WIDTHS[spec.trainer.precision.compute]
    return width * teacher.model.shape(*sizes).parameters / spec.model.shape(*sizes).parameters


def average_bytes(spec: TrainingRunSpec) -> int:
    """Bytes per parameter of ``spec.average``: a moving average is float32, the last models have the type of the
    parameters.
    """
    if spec.average is None:
        return 0
    last = spec.average.last_k
    return WIDTHS["float32"] if last is None else last.models * WIDTHS[spec.trainer.precision.parameters]


def _suggested(spec: TrainingRunSpec, topology: Topology) -> IciAxes:
    precision = spec.trainer.precision
    stored, computed = WIDTHS[precision.parameters], WIDTHS[precision.compute]
    return suggest_axes(
        model_shape(spec),
        state_bytes=_state_bytes(spec),
        gathered_bytes=stored + computed,
        devices=topology.devices_per_slice,
        devices_per_host=topology.devices_per_host,
        memory_bytes=TABLE[spec.accelerator.type].memory_bytes,
    )


def document_vocabulary(tokenizer: TokenizerSpec, unknown: int = ASSUMED_VOCABULARY) -> int:
    """Number of tokens of a document's tokenizer; `unknown` if only its file says."""
    if tokenizer.byte is not None:
        return 259
    if tokenizer.bpe is not None:
        return tokenizer.bpe.vocab_size
    return _TIKTOKEN_VOCABULARIES[tokenizer.tiktoken.encoding] if tokenizer.tiktoken is not None else unknown
