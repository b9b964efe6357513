"""The public names of `halcyon` exist, are documented, and are imported only when they are used."""

from __future__ import annotations

import subprocess
import sys

import haliax as hax
import jax
import pytest

import halcyon
from halcyon import Inputs, build_model
from halcyon_api.spec.families.llama import LlamaSpec


def test_every_public_name_is_there_and_documented() -> None:
    for name in halcyon.__all__:
        assert getattr(halcyon, name).__doc__, name
        assert f"`{name}`" in (halcyon.__doc__ or ""), name
    assert dir(halcyon) == sorted(halcyon.__all__)
    with pytest.raises(
        AttributeError,
        match=r"module 'halcyon' has no attribute 'loop'; it has Completion, Evaluated, Hooks, .*, build_model, ",
    ):
        _ = halcyon.loop


def test_a_model_is_built_and_run_with_public_names_alone() -> None:
    spec = LlamaSpec(num_hidden_layers=1, hidden_size=8, intermediate_size=8, num_attention_heads=2)
    vocab, position, batch = hax.make_axes(vocab=16, position=4, batch=2)
    model = build_model(spec, vocab, position, key=jax.random.key(0))
    outputs = model(Inputs(hax.zeros((batch, position), dtype=int)))
    assert model.logits(outputs.features).axes == (batch, position, vocab)
    assert (outputs.cache, outputs.aux) == (None, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    "use", ["from halcyon import train", "from halcyon_cli.main import app; app(['train', 'no.yaml'])"]
)
def test_without_jax_the_trainer_says_what_it_needs(use: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['jax'] = None; {use}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    sentence = ended.stderr.splitlines()[-1].removeprefix("ImportError: ")
    assert sentence.startswith("the package jax is not installed; this needs Python 3.12 or later and pip install ")


@pytest.mark.slow
def test_importing_halcyon_imports_no_jax() -> None:
    code = "import sys, halcyon; sys.exit(any(name in sys.modules for name in ('jax', 'haliax', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
