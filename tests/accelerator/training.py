"""The step of a run on this machine's first device, on random tokens: what the stages about training share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from halcyon.models.flops import model_flops
from halcyon.models.registry import flops_per_token
from halcyon.parallel.device_mesh import build_mesh
from halcyon.step.device_use import plan_of
from halcyon.step.program import Program, build_program, padded_vocabulary
from halcyon.step.speeds import rates_of
from halcyon.step.state import TrainState, initial_state
from halcyon.step.step_time import PlannedTime
from halcyon_api.overrides import parse_override, with_overrides
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.training_run import TrainingRunSpec
from tests.accelerator.measure import hardware_type, peak_flops
from tests.families import llama

LLAMA_1B = llama(16, 2048, 8192, 32, numKeyValueHeads=8, headDim=64, tieWordEmbeddings=True)
LLAMA_8B_WIDTHS = llama(6, 4096, 14336, 32, numKeyValueHeads=8)
"""Six of the 32 layers of Llama 3 8B, whose state fits one device."""
LLAMA_TINY = llama(2, 64, 128, 4, numKeyValueHeads=2, tieWordEmbeddings=True)
VOCABULARY = 128_256
DOCUMENT = 1000
"""Mean length of a document, in tokens."""


def spec_of(
    model: Mapping[str, Any], *settings: str, batch: int, length: int, optimizer: Mapping[str, Any] | None = None
) -> TrainingRunSpec:
    """The spec of a run in bfloat16 with ``remat: attention``, documents apart and AdamW.

    Args:
        model: ``spec.model``.
        settings: Other values of fields, as ``halcyon train --set`` takes them, without ``spec.``:
            ``trainer.remat=none``.
        batch: Sequences of a step.
        length: Positions of a sequence.
        optimizer: ``spec.optimizer``. None: AdamW.
    """
    kind = hardware_type() or ("nvidia" if jax.default_backend() == "gpu" else "cpu")
    spec = {
        "accelerator": {"type": kind, "topology": "1x8" if kind not in ("cpu", "nvidia") else "1x1"},
        "model": dict(model),
        "data": {"sources": [{"name": "random", "stdlib": {}}]},
        "optimizer": dict(optimizer or {"learningRate": 0.0003, "weightDecay": 0.1, "adamw": {}}),
        "trainer": {
            "steps": 1000, "batchSize": batch, "sequenceLength": length, "microbatches": 1, "remat": "attention",
            "precision": {"compute": "bfloat16"},
        },
        "checkpoint": {"root": "file:///unused"},
    }  # fmt: skip
    changes = [parse_override(f"spec.{setting}") for setting in settings]
    return TrainingRunSpec.model_validate(with_overrides({"spec": spec}, changes)["spec"])


class Training:
    """A compiled step with its state and a batch of random tokens.

    Args:
        spec: The run.
        vocabulary: Tokens of the tokenizer.
        devices: Devices that share the state (``mesh.ici.fsdp``).
    """

    def __init__(self, spec: TrainingRunSpec, vocabulary: int, devices: int = 1) -> None:
        mesh = build_mesh(ResolvedMesh(replica=1, data=1, fsdp=devices, tensor=1), jax.devices()[:devices])
        self.spec, self.program = spec, build_program(spec, vocabulary, mesh)
        self.batch_size, self.length = spec.trainer.batch_size, spec.trainer.sequence_length
        began = time.perf_counter()
        lowered = self.program.lower_step(self.batch_size, self.length)
        self.trace_seconds = time.perf_counter() - began
        began = time.perf_counter()
        self.step = lowered.compile(compiler_options=self.program.compiler_options())
        self.compile_seconds = time.perf_counter() - began
        self.vocabulary = vocabulary
        self.batch = batch_of(self.program, self.batch_size, self.length, vocabulary)
        self.control = jax.device_put(np.zeros(devices, np.int32), self.program.control_sharding)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch_size * self.length

    def initial(self) -> TrainState:
        """The state before the first step."""
        return jax.block_until_ready(initial_state(self.program.build_state, self.program.template))

    def run(
        self, state: TrainState, steps: int, *, least: int = 8, limit: float = 20.0
    ) -> tuple[TrainState, list[float], list[np.ndarray]]:
        """Steps as the loop does them: one is dispatched before the numbers of the one before are fetched.

        Args:
            state: The state before them; it is donated.
            steps: Their number.
            least: The number that is enough where steps are slow.
            limit: Seconds after which it is enough.

        Returns:
            The state after them, the seconds between the ends of two steps, and the losses.
        """
        seconds: list[float] = []
        losses: list[np.ndarray] = []
        state, before = self.step(state, self.batch, self.control)
        began, start = None, time.perf_counter()
        for number in range(1, steps):
            if number >= least and time.perf_counter() - start > limit:
                break
            state, metrics = self.step(state, self.batch, self.control)
            losses.append(np.asarray(before.loss))
            now = time.perf_counter()
            if began is not None:
                seconds.append(now - began)
            began, before = now, metrics
        losses.append(np.asarray(before.loss))
        seconds.append(time.perf_counter() - (began or time.perf_counter()))
        return state, seconds, losses

    def flops_per_token(self) -> int:
        """Operations of the model for a token, as `halcyon show` and the metric ``mfu`` count them."""
        return flops_per_token(self.spec.model, self.length, padded_vocabulary(self.vocabulary).size)

    def planned_seconds(self) -> float | None:
        """The time of a step by `halcyon plan`, from this step as it was compiled here; None if the peaks are not known."""
        rates = rates_of(self.spec.accelerator, 1)
        if rates is None:
            return None
        sizes, remat = (self.batch_size, self.length), self.spec.trainer.remat
        plan = plan_of(self.program, self.step, *sizes, remat=remat, memory_bytes=None, rates=rates)
        flops = model_flops(self.spec, self.program.template.model, self.vocabulary)
        return PlannedTime(plan, flops, rates).step.seconds

    def mfu(self, seconds: float) -> float | None:
        """Model FLOPs utilisation of a step; None if the peak is not known."""
        peak = peak_flops()
        return None if peak is None else self.tokens / seconds * self.flops_per_token() / peak


def batch_of(program: Program, batch: int, length: int, vocabulary: int) -> dict[str, jax.Array]:
    """Random tokens in documents of random lengths: arrays [1, batch, length]."""
    noise, shape = np.random.default_rng(0), (1, batch, length)
    tokens = noise.integers(0, vocabulary, shape)
    arrays = {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, -1),
        "weights": np.ones(shape),
        "segments": np.cumsum(noise.random(shape) < 1 / min(DOCUMENT, length / 4), -1),
    }
    return {
        name: jax.device_put(arrays[name].astype(dtype), program.batch_sharding)
        for name, dtype in program.objective.fields.items()
    }


def same_bits(left: Any, right: Any) -> bool:
    """Whether all arrays of two trees have the same bits."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(bool(jax.numpy.array_equal(one, other, equal_nan=True)) for one, other in pairs)
