"""The packer of a source follows its objective and layout, and the keys of stored layouts never change: old caches are
found by them.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.trainer.data.layout.documents import packer_for

PAIRS = {"preference": {"simpo": {}, "pairsPerRow": 3}}


@pytest.mark.parametrize(
    ("objective", "layout", "key"),
    [
        ({"nextToken": {}}, {"concatenate": {}}, None),
        ({"nextToken": {}}, {"pack": {"maxSegments": 9}}, [2, {"pack": {"maxSegments": 9, "tooLong": "left"}}]),
        ({"nextToken": {}}, {"bestFit": {}}, [2, {"bestFit": {"buffer": 1000}}]),
        (
            {"finetune": {"buffer": 7}},
            {"pack": {}},
            [1, "whole", {"conversations": 1, "units_per_row": None, "buffer": 7}],
        ),
        (PAIRS, {"concatenate": {}}, [1, "whole", {"conversations": 2, "units_per_row": 3, "buffer": 1000}]),
        ({"policy": {"reward": "gsm8k"}}, {"concatenate": {}}, [2, "prompts", {"answer_tokens": 256, "skips": False}]),
    ],
)
def test_a_stored_layout_is_found_by_what_decides_it(
    objective: dict[str, Any], layout: dict[str, Any], key: list[Any] | None
) -> None:
    packer = packer_for(objective, layout)
    assert (packer.key if packer is not None else None) == key
