"""The drawn configurations are ones that transformers computes."""

from __future__ import annotations

from tests.parity.configurations import Draw, mixtral


def test_a_mixtral_states_the_size_of_a_head_where_transformers_needs_it() -> None:
    draws = [mixtral(Draw(seed)) for seed in range(40)]
    scaled = [settings for settings in draws if settings["rope_parameters"]["rope_type"] in ("llama3", "yarn")]
    assert scaled
    assert all(settings.get("head_dim") for settings in scaled)
    assert any("head_dim" not in settings for settings in draws), "the default of the class is drawn too"
