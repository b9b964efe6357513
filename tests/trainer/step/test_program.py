"""The programs of a run: attention does not cross documents unless the run allows it, and each batch size has one
compiled step.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import haliax as hax
import jax
import numpy as np
import pytest

from halcyon.data.loader import Loader
from halcyon.host.errors import BadConfiguration
from halcyon.models import build_model
from halcyon.models.axes import POSITION, VOCAB
from halcyon.step.overrides import Overrides
from halcyon.step.program import Program, build_program
from halcyon_api.hardware.compiler import options_of
from halcyon_api.spec.trainer import UNORDERED, in_effect
from tests.api.documents import minimal_spec
from tests.trainer.data.corpus import open_text
from tests.trainer.support.meshes import mesh_of

TINY = {"family": "llama", "numHiddenLayers": 1, "hiddenSize": 16, "intermediateSize": 16, "numAttentionHeads": 2}
BOS, EOS = 256, 257


def program_of(**changes: Any) -> Program:
    mesh = mesh_of()
    return build_program(minimal_spec(**{"spec__model": TINY} | changes), 259, mesh)


@pytest.mark.parametrize("across", [False, True])
def test_attention_does_not_cross_documents_unless_asked_to(tmp_path: Path, across: bool) -> None:
    """Two rows end with the same document, after different documents."""
    for name, text in (("1", "ab"), ("2", "same"), ("3", "xy"), ("4", "same")):
        (tmp_path / name).write_text(text)
    program = program_of(spec__data__attendAcrossDocuments=across)
    assert ("segments" in program.objective.fields) is not across
    dataset = open_text(tmp_path, sequence_length=9, fraction=0, shuffle=False, batch_size=2)
    with Loader(dataset, microbatches=2, sharding=program.batch_sharding, fields=program.objective.fields) as loader:
        batch = loader.batch(0)
    assert np.asarray(batch["tokens"][:, 0, 4:]).tolist() == [[BOS, *b"same"]] * 2
    noise = np.random.default_rng(0)
    model = jax.tree.map(
        lambda leaf: jax.device_put(noise.normal(size=leaf.shape).astype(leaf.dtype)), program.template.model
    )
    with program.tracing():
        sums = jax.jit(lambda model, batch: program.objective(model, batch, None, None))

        def nats(row: int) -> float:
            alone = jax.tree.map(lambda rows: rows[row], batch)
            return float(sums(model, alone | {"weights": alone["weights"].at[:, :4].set(0)}).loss)

        assert (nats(0) == pytest.approx(nats(1), rel=1e-6)) is not across


def test_a_given_model_needs_a_row_for_each_token_of_the_text() -> None:
    spec = minimal_spec(spec__model=TINY)
    model = build_model(spec.model, hax.Axis(VOCAB, 64), hax.Axis(POSITION, 32), tokens=60, key=jax.random.key(0))
    with pytest.raises(BadConfiguration, match=r"^model: the tokenizer has 259 ids, and the model has rows for 60;"):
        build_program(spec, 259, mesh_of(), overrides=Overrides(model=model))


def test_fast_is_in_effect_on_gpus_alone_and_the_sentence_says_what_it_gives_up() -> None:
    program = program_of(spec__trainer__determinism="fast")
    assert program.determinism_in_effect.determinism == "bitwise"
    assert "trainer.determinism: fast changes nothing on this platform (cpu)" in program.determinism_in_effect.meaning
    assert "changes nothing" not in program_of().determinism_in_effect.meaning
    fast, bitwise = in_effect("fast", "gpu"), in_effect("bitwise", "gpu")
    assert (fast.determinism, bitwise.determinism) == ("fast", "bitwise")
    assert all(operation in fast.meaning for operation in UNORDERED)
    assert "continues from the exact state, with the same batches" in fast.meaning


def test_the_programs_of_a_run_are_compiled_with_its_determinism() -> None:
    flag = "xla_gpu_exclude_nondeterministic_ops"
    gpu = SimpleNamespace(
        devices=np.array([SimpleNamespace(platform="gpu", device_kind="NVIDIA H200", compute_capability="9.0")]), size=1
    )

    def options(determinism: str) -> dict[str, Any]:
        program = program_of(spec__trainer__determinism=determinism)
        return dataclasses.replace(program, mesh=gpu).compiler_options()  # type: ignore[arg-type]

    assert options("bitwise")[flag]
    assert flag not in options("fast")


def test_several_blocks_in_an_iteration_leave_out_the_options_for_one() -> None:
    gpu = SimpleNamespace(platform="gpu", device_kind="NVIDIA H200", compute_capability="9.0")
    mesh: Any = SimpleNamespace(devices=np.array([gpu] * 8), size=8)
    program = dataclasses.replace(program_of(), mesh=mesh)
    for unroll in (1, 2):
        expected = options_of("cc9", devices=8, jax=jax.__version_info__, unroll=unroll)
        found = dataclasses.replace(program, unroll=unroll).compiler_options()
        assert found == expected | {"xla_gpu_exclude_nondeterministic_ops": True}


def test_a_compiled_program_names_its_attention() -> None:
    program = program_of(spec__trainer__sequenceLength=16)
    assert program.attention_choices == {}
    program.compile_step(4, 16)
    assert program.attention_choices == {"reference": "16 positions are few; there is no kernel for cpu"}


def test_attention_that_this_machine_cannot_compute_is_refused() -> None:
    accelerator = {"type": "v5e", "topology": "1x1"}
    precision = {"compute": "bfloat16"}
    program = program_of(
        spec__accelerator=accelerator,
        spec__trainer={"steps": 1, "batchSize": 4, "precision": precision, "attention": "splash"},
    )
    with pytest.raises(
        BadConfiguration, match="splash cannot compute this model's attention: it is a kernel for TPUs, and this is cpu"
    ):
        program.compile_step(4, 128)
