"""Conversations in parquet give what the same rows in JSON Lines give, whatever keys other rows have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from halcyon.data.formats import build_formatter
from halcyon_api.spec.sources import DataSourceSpec
from tests.trainer.data.formats.standin import MarkedBytes
from tests.trainer.data.sources.cases import all_pieces, rows_of, write_jsonl

TESTS = (
    "{{ tools is defined }}{{ tools is none }}{{ tools | tojson }}{% for m in messages %}{{ m.role }}{{ 'content' in m "
    "}}{{ m.content is none }}{{ m.tool_calls is defined }}{{ 'tool_calls' in m }}{{ m.tool_calls is not none }}{{ "
    "m.name is defined }}{% generation %}{{ m.content }}{% endgeneration %}{% for call in m.tool_calls or [] %}{{ call "
    "| tojson }}{{ call.function.arguments.city is defined }}{% endfor %}{% endfor %}"
)


def call(name: str, content: str | None, arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def asked(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


WEATHER = [
    asked("?"),
    call("weather", None, {"city": "Bern"}),
    {"role": "tool", "name": "weather", "content": "3"},
    {"role": "assistant", "content": "3°"},
]
CALC = [
    asked("6*7"),
    call("calc", "", {"expr": "6*7", "digits": [1, None, 2]}),
    {"role": "tool", "content": "42"},
    {"role": "assistant", "content": "42"},
]
ROWS = [
    {"messages": WEATHER, "tools": [tool("weather", city={"type": "string", "enum": ["Bern"]})]},
    {"messages": CALC, "tools": [tool("calc", expr={"type": "string"}), tool("now")]},
    {"messages": [asked("Hi"), {"role": "assistant", "content": "Hello"}], "tools": None},
]


def shown(kind: str, file: Path, form: dict[str, Any], **options: int) -> list[str]:
    source = DataSourceSpec.model_validate({"name": "rows", kind: {"paths": [str(file)]}, "format": form})
    tokenizer = MarkedBytes()
    return [
        tokenizer.show(one.tokens).removeprefix("[bos]")
        for one in build_formatter(source.format, tokenizer, where="F")(rows_of(all_pieces(source, **options)))
    ]


def as_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize(
    ("form", "change"),
    [
        ({"chat": {"template": TESTS}}, lambda row: row),
        ({"chat": {"template": TESTS, "messagesField": "messages", "toolsField": "tools"}}, lambda row: row),
        (
            {"preference": {"template": TESTS}},
            lambda row: {
                "chosen": row["messages"],
                "rejected": [*row["messages"][:-1], asked("?") | {"role": "assistant"}],
            },
        ),
        (
            {"preference": {"template": TESTS}},
            lambda row: {
                "prompt": row["messages"][:-1],
                "chosen": row["messages"][-1:],
                "rejected": row["messages"][-1:],
                "tools": row["tools"],
            },
        ),
        ({"prompt": {"template": TESTS}}, lambda row: row),
    ],
    ids=["chat", "named", "pairs", "pairs with a prompt", "prompt"],
)
def test_a_template_sees_the_same_messages(tmp_path: Path, form: dict[str, Any], change: Any) -> None:
    rows = [change(row) for row in ROWS]
    found = shown("jsonl", write_jsonl(tmp_path / "a.jsonl", rows), form)
    assert shown("parquet", as_table(tmp_path / "a.parquet", rows), form) == found
    # As tables that the parent cuts: large row groups, and data sets of `datasets`.
    assert shown("parquet", tmp_path / "a.parquet", form, target_bytes=10) == found
    assert len(set(found)) >= len(ROWS)


def test_arguments_as_json_in_a_text_keep_their_nulls(tmp_path: Path) -> None:
    rows = [
        {"messages": [asked("?"), call("f", None, json.dumps({"a": None}))]},
        {"messages": [asked("?"), call("f", None, json.dumps({"b": 1}))]},
    ]
    found = shown("parquet", as_table(tmp_path / "a.parquet", rows), {"chat": {"template": TESTS}})
    assert '"arguments": {"a": null}}' in found[0]
    assert found == shown("jsonl", write_jsonl(tmp_path / "a.jsonl", rows), {"chat": {"template": TESTS}})


def test_a_map_is_an_object(tmp_path: Path) -> None:
    kind = pa.list_(pa.struct({"role": pa.string(), "content": pa.string(), "more": pa.map_(pa.string(), pa.string())}))
    messages = [[asked("a") | {"more": None}, {"role": "assistant", "content": "b", "more": [("k", "v")]}]]
    parquet.write_table(pa.table({"messages": pa.array(messages, kind)}), tmp_path / "a.parquet")
    template = "{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}"
    assert shown("parquet", tmp_path / "a.parquet", {"chat": {"template": template}}) == [
        '{"role": "user", "content": "a"}{"role": "assistant", "content": "b", "more": {"k": "v"}}'
    ]
