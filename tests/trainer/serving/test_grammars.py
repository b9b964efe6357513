"""JSON schemas have budgets: no schema holds a thread, much memory, or the end of the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from halcyon.inference.grammar import JsonGrammars, SchemaLimit, SchemaLimits
from halcyon.serving.served import Served
from halcyon_devcluster.waiting import until

_WHOLE = {f"name {number}": {"type": "string"} for number in range(100)}
COSTLY: dict[str, Any] = {
    "a smaller prime": {"type": "integer", "multipleOf": 1000003},
    "a large prime": {"type": "integer", "multipleOf": 10000019},
    "a number with a fraction": {"type": "number", "multipleOf": 1000000.7},
    "the product of three primes": {"allOf": [{"type": "integer", "multipleOf": prime} for prime in (211, 223, 227)]},
    "many numbers": {
        "type": "object",
        "properties": {f"a{number}": {"type": "integer", "multipleOf": 10007 + 2 * number} for number in range(300)},
        "required": [f"a{number}" for number in range(300)],
    },
    "inside of definitions": {
        "$defs": {"a": {"type": "integer", "multipleOf": 15485863}},
        "type": "array",
        "items": {"$ref": "#/$defs/a"},
    },
}
GOOD: list[Any] = [
    {"type": "object"},
    {"type": "object", "properties": _WHOLE, "required": list(_WHOLE)},
    {"multipleOf": 1009},
]


@pytest.fixture(scope="module")
def grammars(tiny: Served) -> Iterator[JsonGrammars]:
    made = JsonGrammars(tiny.tokenizer, tiny.ends)
    yield made
    made.checks.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a smaller prime", *(pytest.param(name, marks=pytest.mark.variant) for name in list(COSTLY)[1:])]
)
def test_a_costly_schema_is_refused_by_its_limits_in_a_process_that_is_replaced(
    grammars: JsonGrammars, name: str
) -> None:
    with pytest.raises(SchemaLimit, match=r"takes more than 2 seconds or 128 MiB to compile; make it simpler"):
        grammars.of_schema(COSTLY[name])
    tried = grammars.checks.tried
    with pytest.raises(SchemaLimit, match="make it simpler"):
        grammars.of_schema(COSTLY[name])
    assert grammars.checks.tried == tried  # the result is known
    (grammar,) = grammars.of_schema(
        {"type": "object", "properties": {name: {"const": 1}}}
    )  # a new process takes the next one
    words = np.full(-(-grammars.tokens // 32), -1, np.int32)
    grammar.allow(words)
    assert words.any()


@pytest.mark.slow
def test_one_process_compiles_many_schemas_and_knows_them_again(grammars: JsonGrammars) -> None:
    for schema in GOOD:
        grammars.of_schema(schema)
    started = grammars.checks.started
    for number in range(20):
        grammars.of_schema({"type": "object", "properties": {f"p{number}": {"type": "integer"}}})
    assert grammars.checks.started == started
    tried = grammars.checks.tried
    for schema in GOOD:
        assert len(grammars.of_schema(schema, 3)) == 3
    assert grammars.checks.tried == tried


@pytest.mark.slow
def test_the_grammars_of_all_requests_together_have_a_limit_of_memory(tiny: Served) -> None:
    grammars = JsonGrammars(tiny.tokenizer, tiny.ends, SchemaLimits(all_bytes=16 << 20))
    try:
        kept = [grammars.of_schema({"type": "object"}, 4) for _ in range(2)]
        with pytest.raises(SchemaLimit, match="have all memory that grammars may have") as refused:
            kept.extend(grammars.of_schema({"const": number}) for number in range(9))
        assert refused.value.is_for_now
        del kept
        assert grammars.memory.taken_bytes == 0
        assert grammars.of_schema({"const": 8}, 4)
    finally:
        grammars.checks.kill()


@pytest.mark.slow
def test_close_ends_a_compilation(grammars: JsonGrammars, tiny: Served) -> None:
    other = JsonGrammars(
        tiny.tokenizer, tiny.ends, SchemaLimits(processor_seconds=600, seconds=600, memory_bytes=1 << 33)
    )
    failures: list[BaseException] = []

    def compile_it() -> None:
        try:
            other.of_schema(COSTLY["a large prime"])
        except SchemaLimit as error:
            failures.append(error)

    thread = threading.Thread(target=compile_it)
    thread.start()
    until(
        lambda: other.checks.busy > 0,
        timeout_seconds=60,
        interval_seconds=0.01,
        failure=lambda: "no process was started",
    )
    other.checks.kill()
    thread.join()
    assert failures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "wrong"}, "wrong"),
        ({"x-guidance": {"whitespace_flexible": True}}, "x-guidance; leave it out"),
        ({"$ref": "#/no"}, "no"),
    ],
)
def test_a_wrong_schema_has_a_reason(grammars: JsonGrammars, schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        grammars.of_schema(schema)
