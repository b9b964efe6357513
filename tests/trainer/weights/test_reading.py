"""Which models are the same, so that a run can take the weights of one for the other."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.weights.reading import balance_note, require_same
from halcyon_api.spec.families.mistral import MixtralSpec
from halcyon_api.spec.families.qwen import Qwen3MoeSpec, Qwen3Spec
from halcyon_api.spec.model import read_model


def test_entries_that_decide_nothing_may_differ() -> None:
    small: Any = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}
    qwen = [Qwen3Spec(**small, max_window_layers=layers) for layers in (1, 28)]
    require_same(*qwen, "it")
    experts = [Qwen3MoeSpec(**small, intermediate_size=size) for size in (16, 24)]
    require_same(*experts, "it")
    mixed = [Qwen3MoeSpec(**small, intermediate_size=size, decoder_sparse_step=2) for size in (16, 24)]
    mixtral = [MixtralSpec(**small, intermediate_size=size) for size in (16, 24)]
    for ours, theirs in (mixed, mixtral):
        with pytest.raises(BadConfiguration, match=r"it holds another model: intermediate_size is 24 there, and 16"):
            require_same(ours, theirs, "it")
    windows = [Qwen3Spec(**small, use_sliding_window=True, max_window_layers=layers) for layers in (1, 2)]
    with pytest.raises(BadConfiguration, match="layer_types"):
        require_same(*windows, "it")


def test_a_run_can_begin_with_a_custom_model_of_the_same_section() -> None:
    narrow, wide = (
        read_model({"family": "custom", "class": "own.models:Model", "config": {"width": width}}) for width in (8, 16)
    )
    require_same(narrow, narrow, "spec.from: the checkpoint")
    with pytest.raises(BadConfiguration, match=r"the checkpoint holds another custom model; set spec.model to it, "):
        require_same(narrow, wide, "spec.from: the checkpoint")


def test_another_factor_of_the_balance_loss_is_no_other_model() -> None:
    sizes = {
        "numHiddenLayers": 2,
        "hiddenSize": 8,
        "intermediateSize": 12,
        "numAttentionHeads": 4,
        "numLocalExperts": 4,
    }
    ours, theirs = (read_model({"family": "mixtral"} | sizes | {"routerAuxLossCoef": one}) for one in (0.01, 0.0))
    require_same(ours, theirs, "spec.from")
    assert balance_note(ours, ours, "it") == ""
    assert balance_note(ours, theirs, "it").startswith(
        "spec.model.routerAuxLossCoef is 0.01, and 0 by the files in it; set it"
    )
