"""The depth dial gives the numbers that the original computes at the same depth (`nanochat_figures.json`)."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from halcyon.commands.dial import Choices, Dial, InvalidDial, dial, document
from halcyon_api.local_roots import with_root_addresses
from halcyon_api.reading import parse_run
from halcyon_api.validation import find_problems

FIGURES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "nanochat_figures.json").read_text())
"""Computed by the original's code (commit 92d63d4) for a vocabulary of 32,768 tokens."""
EACH = pytest.mark.parametrize(
    "figures", FIGURES, ids=[f"d{one['depth']}-{one['ratio']}-{one['sequenceLength']}" for one in FIGURES]
)
_PATTERNS = {
    "head": "untied_head.*",
    "embedding": "embedding.*",
    "values": "*.values.table.*",
    "residual": "*.residual_factor",
    "input": "*.embedding_factor",
    "smear": "smear.*",
}


def found(figures: dict[str, Any]) -> Dial:
    """The dial at the settings of the figures."""
    return dial(
        Choices(
            figures["depth"],
            sequence_length=figures["sequenceLength"],
            head_dim=figures["headDim"],
            tokens_per_parameter=figures["ratio"],
        )
    )


@EACH
def test_sizes_horizon_batch_and_rates_are_those_of_the_original(figures: dict[str, Any]) -> None:
    ours = found(figures)
    assert (ours.width, ours.heads, ours.steps, ours.batch_tokens) == (
        figures["width"],
        figures["heads"],
        figures["steps"],
        figures["batchTokens"],
    )
    assert (ours.parameters, ours.scaling_parameters) == (figures["parameters"], figures["scalingParameters"])
    assert ours.rate_factor == pytest.approx(figures["rateFactor"])
    assert ours.weight_decay == pytest.approx(figures["weightDecay"])
    assert ours.learning_rate == pytest.approx(figures["matrices"])
    rates = {one["match"]: one["learningRate"] * ours.learning_rate for one in ours.groups}
    assert {name: rates[pattern] for name, pattern in _PATTERNS.items()} == pytest.approx(figures["rates"])
    assert rates["backout"] == rates["smear.*"]


@EACH
def test_the_window_and_the_operations_of_a_token_are_those_of_the_original(figures: dict[str, Any]) -> None:
    """A window of the original is the number of positions before a token.

    It counts the operations of one position fewer.
    """
    ours = found(figures)
    assert (ours.window or figures["window"] + 1) == figures["window"] + 1
    counted = ours.model.shape(32_768, figures["sequenceLength"]).flops_per_token(figures["sequenceLength"])
    windowed = sum(window is not None for window in ours.model.windows)
    assert counted - 12 * ours.width * windowed == figures["flopsPerToken"]


@EACH
def test_the_momentum_at_a_step_is_that_of_the_original(figures: dict[str, Any]) -> None:
    points = found(figures).momentum
    for step, _, momentum, _ in figures["at"]:
        (left, low), (right, high) = next(pair for pair in pairwise(points) if pair[0][0] <= step <= pair[1][0])
        assert low + (high - low) * (step - left) / (right - left) == pytest.approx(momentum, abs=1e-12), step


@EACH
def test_the_document_is_valid_and_names_every_number(figures: dict[str, Any]) -> None:
    ours = found(figures)
    run = parse_run(with_root_addresses(document(ours)))
    assert find_problems(run.spec) == ()
    assert run.spec.trainer.batch_size * run.spec.trainer.sequence_length == ours.batch_tokens
    assert run.spec.trainer.steps == ours.steps
    section = document(ours)["spec"]["model"]
    assert {"depth", "hiddenSize", "headDim", "windowPattern", "ropeTheta"} <= section.keys()
    assert run.spec.optimizer.muon_adamw is not None


def test_each_law_can_be_overridden() -> None:
    ours = dial(
        Choices(12, batch_tokens=2**18, steps=100, weight_decay=0.1, matrix_rate=0.01, warmdown=0.5, warmup_steps=10)
    )
    assert (ours.batch_tokens, ours.batch_size, ours.steps, ours.warmdown_steps, ours.warmup_steps) == (
        2**18,
        128,
        100,
        50,
        10,
    )
    assert ours.learning_rate == pytest.approx(0.01 * 0.5**0.5)
    assert {name: law for name, _, law in ours.laws() if law == "given"}.keys() == {"batch_tokens", "steps"}
    assert all(law for _, _, law in ours.laws())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sequence_length": 3000}, "no whole number of sequences of 3000"),
        ({"tokens_per_parameter": 0.001}, "give more tokens for a parameter"),
        ({"window_pattern": "SX"}, "other letters than S and L"),
        ({"head_dim": 3}, "an even number"),
        ({"matrix_rate": 0.0}, "rates must be more than 0"),
        ({"steps": 0}, "batch and steps at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidDial, match=message):
        dial(Choices(12, **given))
