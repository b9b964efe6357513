"""HumanEval: functions that a model completes and tests check (Chen et al. 2021), as published
(``HumanEval.jsonl.gz``) or on the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from halcyon.evals.example import OpenQuestion, Prompt
from halcyon.evals.rows import Row
from halcyon.evals.sandbox.running import Program

_STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n```")
"""A function that continues the prompt has ended before each of these (Chen et al. 2021, section 3.1)."""
_BLOCK = re.compile(r"```(?:[Pp]ython|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def examples(rows: Iterable[Row]) -> Iterator[OpenQuestion]:
    """The examples of a file: ``task_id``, ``prompt``, ``canonical_solution``, ``test`` and ``entry_point``."""
    for row in rows:
        prompt, test, function = row.text("prompt"), row.text("test"), row.text("entry_point")
        if not _NAME.fullmatch(function):
            row.bad(f"the field entry_point is {function!r}, which is no name of a function")
        solution = f"{prompt}{row.text('canonical_solution')}"
        yield OpenQuestion(
            f"{row.place} ({row.text('task_id')})",
            Prompt(({"role": "user", "content": prompt},), prompt.rstrip("\n"), _STOP),
            solution,
            ({"type": "text", "text": solution},),
            {"prompt": prompt, "test": test, "entry_point": function},
        )


def grade(example: OpenQuestion, text: str) -> Program:
    """The program that decides whether a text is right: the function, and the published tests as checks."""
    prompt, function = example.facts["prompt"], example.facts["entry_point"]
    block = _BLOCK.search(text)
    code = block[1] if block is not None else text
    if re.search(rf"^def {function}\b", code, re.MULTILINE):
        source = f"{_above(prompt, function)}\n{code}\n"
    else:  # the text continues the prompt
        source = (
            f"{prompt}{code}\n"
            if prompt.endswith("\n") and not code.startswith("\n")
            else f"{prompt.rstrip()}{_broken(code)}\n"
        )
    return Program(source, f"{example.facts['test']}\ncheck({function})\n")


def _broken(code: str) -> str:
    return code if code.startswith("\n") else f"\n{code}"


def _above(prompt: str, function: str) -> str:
    """Imports and other functions above the function, which an answer with the whole function may leave out."""
    return prompt[: max(0, prompt.rfind(f"def {function}"))]
