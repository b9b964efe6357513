"""The summary of a run: its parameters and FLOPs add up to those of the model, and its bytes to those of the
program.
"""

from __future__ import annotations

from typing import Any

import jax
import pytest
from rich.console import Console

from halcyon.commands.views.pages import run_page
from halcyon.commands.views.run_summary import Summary, source_rows, summarize
from halcyon.models import flops_per_token, parameter_count
from halcyon.models.axes import is_named
from halcyon.models.flops import model_flops
from halcyon.step.program import build_program
from halcyon.step.state import state_bytes
from halcyon_api.mesh import document_vocabulary, model_shape, run_mesh
from halcyon_api.reading import parse_run
from halcyon_api.training_run import TrainingRun
from tests.api.documents import document
from tests.families import SMALL_FAMILIES, sections_of
from tests.trainer.support.meshes import mesh_of

FAST = ("llama", "gpt2", "gemma", "deepseekV3")
each_family = pytest.mark.parametrize(
    "family", [name if name in FAST else pytest.param(name, marks=pytest.mark.variant) for name in SMALL_FAMILIES]
)


def run_of(family: str = "llama", **changes: Any) -> TrainingRun:
    trainer = {"steps": 10, "batchSize": 8, "sequenceLength": 32}
    accelerator = {"type": "cpu", "topology": "1x4", "slices": 1}
    return parse_run(
        document(
            spec__accelerator=accelerator,
            **{f"spec__{name}": part for name, part in sections_of(family).items()},
            spec__trainer=trainer,
            **changes,
        )
    )


def summary_of(run: TrainingRun) -> Summary:
    mesh, vocabulary = run_mesh(run.spec), document_vocabulary(run.spec.tokenizer)
    return summarize(run, build_program(run.spec, vocabulary, mesh_of(fsdp=mesh.fsdp)), mesh, vocabulary)


@each_family
def test_the_rows_add_up_to_the_model_and_to_its_flops(family: str) -> None:
    run = run_of(family)
    found, shape = summary_of(run), model_shape(run.spec)
    assert found.parameter_count == shape.parameters
    assert found.active_parameters == shape.active_parameters
    weights = sum(row.flops_per_token for row in found.parameters)
    assert (
        found.flops_per_token
        == flops_per_token(run.spec.model, 32, found.vocabulary)
        == weights + found.attention_flops_per_token
    )
    rest = shape.attention_width * 32 + shape.windowed_width * min(shape.window, 32) + shape.state_products
    assert found.attention_flops_per_token == pytest.approx(6 * rest, abs=len(found.parameters)), "experts are rounded"


def test_what_no_step_computes_is_told_apart() -> None:
    """Half of a square of positions is hidden, less of a window; frozen weights have no gradients."""
    run, length = run_of("gemma3"), 32
    program, shape = build_program(run.spec, 259, mesh_of(fsdp=4)), model_shape(run.spec)
    window = min(shape.window, length)
    assert 0 < window < length
    whole = model_flops(run.spec, program.template.model, 259)

    def visible(width: int, window: int) -> float:
        return 6 * width * sum(min(place + 0.5, window) for place in range(length)) / length

    seen = visible(shape.attention_width, length) + visible(shape.windowed_width, window)
    assert whole.visible == pytest.approx(seen, rel=0.01)
    assert (whole.frozen, whole.products + whole.attention) == (0, whole.per_token)
    longer = model_flops(run.spec, program.template.model, 259, length=2 * length)
    assert longer.visible > whole.visible
    assert longer.products == whole.products
    none_trained = jax.tree.map(lambda _: False, program.template.model, is_leaf=is_named)
    frozen = model_flops(run.spec, program.template.model, 259, trained=none_trained)
    assert frozen.products == pytest.approx(whole.products * 2 / 3)


def test_bytes_are_those_of_the_program() -> None:
    run = run_of()
    program = build_program(run.spec, 259, mesh_of(fsdp=4))
    found = summary_of(run)
    sizes = sum(row.size_bytes for row in (*found.parameters, *found.state)) + 4
    assert sizes == state_bytes(program.template), "the step count has four bytes"
    assert [row.path for row in found.state] == ["1.count", "1.mu", "1.nu"]
    assert found.state[1].elements == parameter_count(program.template.model)
    assert found.device.parameters < sum(row.size_bytes for row in found.parameters) / 3, (
        "four devices share the parameters"
    )


def test_shares_come_from_the_weights_of_the_document() -> None:
    sources = [
        {"name": "a", "stdlib": {}, "weight": 3.0},
        {"name": "b", "stdlib": {}, "weight": 1.0, "validation": {"fraction": 0.5}},
    ]
    rows = source_rows(run_of(spec__data={"sources": sources}).spec)
    assert [(row.name, row.kind, row.share, row.validation) for row in rows] == [
        ("a", "stdlib", 0.75, 0.01),
        ("b", "stdlib", 0.25, 0.5),
    ]
    rows = source_rows(run_of(spec__data={"sources": [{"name": "a", "stdlib": {}}, {"name": "b", "stdlib": {}}]}).spec)
    assert [row.share for row in rows] == [None, None], "sizes are known once the text is tokenized"


def test_the_page_fits_into_a_terminal_and_shows_every_part() -> None:
    shown = Console(width=140, record=True, file=None, quiet=False)
    with shown.capture() as captured:
        for part in run_page(summary_of(run_of("deepseekV3"))):
            shown.print(part)
    text = captured.get()
    for word in (
        "small: deepseekV3 on cpu, 4 devices, mesh fsdp 4",
        "expert",
        "active for a token",
        "optimizer state",
        "2,560",
    ):
        assert word in text, word
    assert max(map(len, text.splitlines())) <= 140


def test_nothing_is_computed_for_a_summary() -> None:
    before = len(jax.live_arrays())
    assert summary_of(run_of()).document()["parameter_count"] > 0
    assert len(jax.live_arrays()) == before
