"""Conversations per second of the chat format on one core: rendering, encoding and loss weights. Each figure is the
shortest of several.

The conversations have a system message and four turns, of words of the standard library. The vocabulary is trained on
its sources.

    FASTOKENS_BPE_THREADS=1 RAYON_NUM_THREADS=1 taskset -c 0 python tests/bench/bench_chat.py [--conversations 20000]
"""

from __future__ import annotations

import argparse
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timing import best_seconds

from halcyon.data.formats import build_formatter
from halcyon.data.sources import SourceRow
from halcyon.errors import BadConfiguration
from halcyon.tokenizer import load
from halcyon.tokenizer.bpe import train_bpe
from halcyon_api.spec.sources import ChatFormatSpec, FormatSpec

BATCH = 256
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}{{ "
    "m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif "
    "%}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
CASES = {"Halcyon's template": None, "ChatML": MARKED, "ChatML without generation blocks": PLAIN}


def sources() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        yield path.read_text(encoding="utf-8", errors="replace")


def conversations(number: int, words: list[str], spelled: float) -> list[dict[str, Any]]:
    """Conversations of about 1,600 characters; a part of them spells a special token in a message."""
    draw = random.Random(0)

    def content(length: int) -> str:
        begin = draw.randrange(len(words) - length)
        text = " ".join(words[begin : begin + length])
        return f"{text} <|im_end|>" if draw.random() < spelled else text

    roles = ("system", "user", "assistant", "user", "assistant")
    return [
        {"messages": [{"role": role, "content": content(draw.randrange(5, 80))} for role in roles]}
        for _ in range(number)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=20_000)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    texts = list(sources())[:40]
    tokenizer = load(train_bpe(texts, options.vocabulary, ["<|im_start|>", "<|im_end|>"]))
    words = " ".join(texts).split()
    for spelled in (0.0, 0.1):
        rows = [
            SourceRow("a.jsonl", place, value)
            for place, value in enumerate(conversations(options.conversations, words, spelled))
        ]
        for name, template in CASES.items():
            case = f"{name}, special tokens in {spelled:.0%} of the messages"
            try:
                formatter = build_formatter(
                    FormatSpec(chat=ChatFormatSpec(template=template)), tokenizer, where="format"
                )
            except BadConfiguration as refusal:
                print(f"{case}: {refusal}")
                continue

            def work(formatter: Any = formatter, rows: list[SourceRow] = rows) -> None:
                for begin in range(0, len(rows), BATCH):
                    formatter(rows[begin : begin + BATCH])

            print(f"{case}: {len(rows) / best_seconds(work, options.repeats):,.0f} conversations/s", flush=True)


if __name__ == "__main__":
    main()
