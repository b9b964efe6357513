"""A model of the user's own package: that of the guide, and every way in which a class or its configuration is
refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import numpy as np
import pytest
import yaml

from halcyon.host.errors import BadConfiguration
from halcyon.models import flops_per_token, parameter_count
from halcyon.models.families.custom import custom_model
from halcyon.models.families.lookup import published_of_section
from halcyon.step.program import build_program
from halcyon_api.base import InvalidRun
from halcyon_api.mesh import run_mesh
from halcyon_api.reading import parse_run
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.model import read_model
from tests.api import documents
from tests.trainer.models.cases import VOCAB, batch, logits, losses, make, shapes
from tests.trainer.support.meshes import mesh_of

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "custom-models.md"
WIDTH = 16


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the guide's module ``twogram``, on the import path."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "twogram.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def custom(path: str = "twogram:TwoGram", **config: Any) -> ModelSection:
    return read_model({"family": "custom", "class": path, "config": config})


def test_the_document_of_the_guide_names_its_class(package: Path) -> None:
    (document,) = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    spec = read_model(yaml.safe_load(document)["model"])
    custom_model(spec)
    assert spec.document() == {"family": "custom", "class": "twogram:TwoGram", "config": {"width": 64}}


def test_the_model_of_the_guide_computes_and_counts(package: Path) -> None:
    spec = custom(width=WIDTH)
    model = make.__wrapped__(spec)  # a document with free members has no hash
    tokens, targets, weights, segments = batch()
    found = np.asarray(logits(model, tokens, segments))
    products = WIDTH * WIDTH + WIDTH * VOCAB.size
    assert parameter_count(model) == products + WIDTH * VOCAB.size + WIDTH
    assert flops_per_token(spec, 12, VOCAB.size) == 6 * products

    other = tokens.array.at[:, -1].set((tokens.array[:, -1] + 1) % VOCAB.size)
    assert np.array_equal(found[:, :-1], logits(model, hax.named(other, tokens.axis_names), segments)[:, :-1])
    first = np.asarray(segments.array).argmax(1)
    earlier = tokens.array.at[np.arange(len(first)), first - 1].set(0)
    changed = np.asarray(logits(model, hax.named(earlier, tokens.axis_names), segments))
    assert np.array_equal(found[np.arange(len(first)), first], changed[np.arange(len(first)), first]), (
        "a segment sees the one before"
    )

    (total, weight), gradient = losses(model, tokens, targets, weights, segments)
    assert np.isfinite(float(total / weight))
    assert all(float(np.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


def test_the_operator_knows_no_size_of_a_custom_model(package: Path) -> None:
    shape = custom().shape(100, 10)
    assert shape.parameters == shape.flops_per_token(10) == 0
    assert shape.splits == ()
    with pytest.raises(BadConfiguration, match="no form of Hugging Face"):
        published_of_section(custom())


MODULES = {
    "broken": "import no_such_package",
    "plain": "class Model:\n    pass\nnumber = 3",
    "halves": "from halcyon.models import CausalLM\nclass Half(CausalLM):\n    pass",
    "bare": "import twogram\nclass Bare(twogram.TwoGram):\n    Config = None\n    init = None",
}


@pytest.mark.parametrize(
    ("path", "config", "message"),
    [
        (
            "nowhere.models:Model",
            {},
            r"class: nowhere\.models does not import \(ModuleNotFoundError: No module named 'nowhere'\); correct",
        ),
        (
            "broken:Model",
            {},
            r"class: broken does not import \(ModuleNotFoundError: No module named 'no_such_package'\); correct the "
            r"path",
        ),
        (
            "twogram:Twogram",
            {},
            r"class: the module twogram has no Twogram; the nearest model in it is TwoGram; correct the path",
        ),
        ("plain:Model", {}, r"class: plain:Model is no subclass of halcyon\.models\.CausalLM; docs/guides"),
        ("plain:number", {}, r"class: plain:number is no subclass of halcyon\.models\.CausalLM"),
        ("halves:Half", {}, r"class: halves:Half is abstract: it lacks __call__, .*head"),
        ("bare:Bare", {}, r"class: bare:Bare lacks Config and init"),
        (
            "twogram:TwoGram",
            {"depth": 3},
            r"config: twogram:TwoGram does not take it: .* unexpected keyword argument 'depth'; correct",
        ),
    ],
)
def test_a_class_or_configuration_that_is_refused(
    package: Path, path: str, config: dict[str, Any], message: str
) -> None:
    for name, code in MODULES.items():
        (package / f"{name}.py").write_text(code)
    with pytest.raises(BadConfiguration, match=rf"^spec\.model\.{message}") as refused:
        custom_model(custom(path, **config))
    assert "\n" not in str(refused.value)


def test_a_model_that_cannot_be_built_is_refused(package: Path) -> None:
    with pytest.raises(
        BadConfiguration, match=r"^spec\.model\.class: twogram:TwoGram cannot build the model \(TypeError"
    ):
        shapes(custom(width="wide"))


def document(**model: Any) -> dict[str, Any]:
    accelerator = {"type": "cpu", "topology": "1x8"}
    return documents.document(spec__accelerator=accelerator, spec__model={"family": "custom"} | model)


def test_the_form_of_a_class_is_checked_by_the_schema() -> None:
    with pytest.raises(InvalidRun, match=r"spec\.model\.class"):
        parse_run(document(**{"class": "twogram.TwoGram"}))


def test_a_size_that_the_mesh_does_not_divide_is_named(package: Path) -> None:
    run = parse_run(document(**{"class": "twogram:TwoGram", "config": {"width": 12}}))
    assert run_mesh(run.spec).fsdp == 8
    with pytest.raises(
        BadConfiguration, match=r"the axis embed of the parameter embedding\.weight has 12 elements.*fsdp.*8, does not"
    ):
        build_program(run.spec, 100, mesh_of(fsdp=8))


def test_the_shapes_of_a_custom_model_need_no_numbers(package: Path) -> None:
    assert parameter_count(shapes(custom(width=2**20))) == 2**40 + 2**20 + 2 * VOCAB.size * 2**20
