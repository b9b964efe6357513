"""Figures of the original nanochat, which the report card shows beside those of a chain. Pure.

The sources are its repository, github.com/karpathy/nanochat: the leaderboard "time to GPT-2" (``dev/LEADERBOARD.md``,
March 2026), and the report card in the README of its first commit (October 2025). All of them were measured on eight
H100 GPUs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from halcyon_api.result_documents import CORE_TASKS

CORE_NOISE = 0.008
"""Half of the range of CORE over seven equal runs of the original, 0.2512 to 0.2677."""


@dataclass(frozen=True)
class OriginalRow:
    """A run of the original.

    Attributes:
        name: What was trained.
        source: Where the figures were published.
        hours: Hours of training on eight H100; None: not published.
        core: CORE.
        bits_per_byte: On its own held-out text.
        tasks: Accuracies by task after finetuning.
        chat_core: ChatCORE after finetuning.
    """

    name: str
    source: str
    hours: float | None
    core: float | None
    bits_per_byte: float | None = None
    tasks: Mapping[str, float] = field(default_factory=dict[str, float])
    chat_core: float | None = None


_LEADERBOARD, _FIRST = "leaderboard, March 2026", "README, October 2025"
ROWS = (
    OriginalRow("depth 24, bfloat16", _LEADERBOARD, 3.04, core=0.2585),
    OriginalRow("depth 26, FP8, the fastest", _LEADERBOARD, 1.65, core=0.2626, bits_per_byte=0.71800),
    OriginalRow(
        "depth 20, with finetuning",
        _FIRST,
        3.85,
        core=0.2219,
        tasks={
            "arc-easy": 0.3876,
            "arc-challenge": 0.2807,
            "mmlu": 0.3151,
            "gsm8k": 0.0455,
            "humaneval": 0.0854,
        },
        chat_core=0.0884,
    ),
)
GPT2 = OriginalRow("GPT-2, 1.5 billion parameters", "leaderboard, its goal", None, core=0.256525)
"""The model that the leaderboard wants to reach."""


def comparable(core_tasks: int) -> list[str]:
    """Sentences that name the figures that can be compared with the original, and those that cannot.

    Args:
        core_tasks: Tasks in the chain's CORE; 0: it has none.
    """
    found: list[str] = []
    if core_tasks == CORE_TASKS:
        found.append(
            "CORE is comparable: solved examples, their order and the rules are those of the original. Equal runs are "
            f"within ±{CORE_NOISE}. The published CORE takes at most 500 examples of each task while a run trains."
        )
    elif core_tasks:
        found.append(f"CORE is not comparable: it has {core_tasks} of the {CORE_TASKS} tasks.")
    else:
        found.append("CORE was not run, so no accuracy is comparable.")
    found.append("Tasks and ChatCORE are not comparable: the prompts and the chat template are Halcyon's own.")
    found.append(
        "Bits per byte are comparable on the same held-out text only; the original's is a shard of its own web text."
    )
    found.append(
        "Hours of the original are those of its training alone, on eight H100; those of a chain count every second."
    )
    return found
