"""People with work of their own, each command in a process of its own as they type it: a student with a PDF among the
texts, an engineer whose template has tools and whose program is an OpenAI client, a platform engineer who plans an 8B,
and a researcher with a model beside the document. `test_walks` has the reader of the nanochat page.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from halcyon_api.ends import ExitCode
from halcyon_devcluster.waiting import until
from tests.bench.plan_published import LLAMA_3_8B
from tests.document_changes import changed
from tests.examples.documents import REPOSITORY
from tests.examples.test_data_forms import base
from tests.suite.limits import limit
from tests.walks.page import Walk
from tests.walks.test_walks import FEW_STEPS, files_of

pytestmark = pytest.mark.slow

SERVING = re.compile(r"serving (\S+) at (http://\S+)")


def small(walk: Walk, name: str, changes: dict[str, Any]) -> str:
    """Save the document of the first run with few steps and these changes; its root has its name. Returns its file."""
    document = yaml.safe_load((REPOSITORY / "examples" / "local-llama.yaml").read_text())
    own = {"metadata.name": name, "spec.checkpoint.root": f"file://{walk.folder}/{name}", "spec.telemetry": ...}
    walk.write(f"{name}.yaml", yaml.safe_dump(changed(document, FEW_STEPS | own | changes)))
    return f"{name}.yaml"


def test_a_student_has_a_pdf_among_the_texts(tmp_path: Path) -> None:
    walk = Walk(tmp_path, {})
    for number in range(3):
        walk.write(f"texts/{number}.txt", "The quick brown fox jumps over the lazy dog.\n" * 100)
    (tmp_path / "texts" / "paper.pdf").write_bytes(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(range(256)) * 40)
    named = small(
        walk, "named", {"spec.data.sources": [{"name": "texts", "text": {"paths": ["texts/0.txt", "texts/paper.pdf"]}}]}
    )
    said = walk.run(f"halcyon data stats {named}", code=ExitCode.BAD_CONFIGURATION)
    assert "texts/paper.pdf is a PDF, not text; convert it first, for example with pdftotext" in said
    whole = small(walk, "whole", {"spec.data.sources": [{"name": "texts", "text": {"paths": ["texts"]}}]})
    assert "paper.pdf" in walk.run(f"halcyon data stats {whole}"), "what was left out is named"
    walk.run(f"halcyon train {whole}")
    assert walk.step("whole") == 6
    report = json.loads(walk.run("halcyon report whole --json"))
    assert (report["step"], report["complete"]) == (6, True)
    assert walk.run("halcyon sample whole --prompt 'The quick' --max-tokens 4").startswith("The quick")


# Hermes' form of tools, and a variable as in Qwen 3.
TOOLS = """\
{%- if tools -%}<|im_start|>system
{% for tool in tools %}{{ tool.function.name }}{% endfor %}: <tool_call></tool_call><|im_end|>
{% endif -%}
{%- for message in messages -%}<|im_start|>{{ message.role }}
{% if message.role == 'assistant' -%}{%- generation -%}{{- message.content or '' -}}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor -%}<|im_end|>
{%- endgeneration %}
{% else %}{{ message.content }}<|im_end|>
{% endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{{ '<think></think>' if enable_thinking is false }}{%- endif -%}
"""
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"warm": {"enum": [True]}},
            "required": ["warm"],
            "additionalProperties": False,
        },
    },
}


def test_an_engineer_has_a_template_with_tools_and_an_openai_client(tmp_path: Path) -> None:
    walk = Walk(tmp_path, {})
    folder = base(tmp_path / "models" / "base")
    (folder / "chat_template.jinja").write_text(TOOLS)
    call = {"type": "function", "function": {"name": "weather", "arguments": {"warm": True}}}
    talk = [{"role": "user", "content": "Warm?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    walk.write("talks.jsonl", f"{json.dumps({'messages': talk, 'tools': [WEATHER]})}\n" * 24)
    chat = {"toolsField": "tools", "messagesField": "messages", "templateVariables": {"enable_thinking": False}}
    source = {"name": "talks", "jsonl": {"paths": ["talks.jsonl"]}, "format": {"chat": chat}}
    changes: dict[str, Any] = {
        "spec.from": {"huggingFace": {"path": "models/base"}},
        "spec.model": {"family": "huggingFace", "configFile": "models/base"},
        "spec.tokenizer": {"tokenizerJson": {"path": "models/base"}},
        "spec.adapter": {"lora": {"rank": 2}},
        "spec.objective": {"finetune": {}},
        "spec.data.sources": [source],
        "spec.trainer.sequenceLength": 256,
    }
    clerk = small(walk, "clerk", changes)
    wrong = 'spec.data.sources[0].format.chat.templateVariables={"enable_thinkng": false}'
    said = walk.run(f"halcyon validate {clerk} --set '{wrong}'", code=ExitCode.BAD_CONFIGURATION)
    assert "the template has no variable enable_thinkng; correct its name, or leave it out" in said
    assert "⟦<tool_call>{" in walk.run(f"halcyon data show {clerk}"), "what counts in the loss"
    walk.run(f"halcyon train {clerk}")
    walk.run("halcyon export hf clerk adapter --adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    walk.run("halcyon export hf clerk exports/clerk/step-6")
    assert {"config.json", "chat_template.jinja"} <= files_of(tmp_path / "exports" / "clerk" / "step-6")
    ask(walk, "halcyon serve hf:exports/clerk/step-6 --port 0 --slots 2 --length 256")


def ask(walk: Walk, line: str) -> None:
    """Serve the clerk, and ask as a program with the client of OpenAI does."""
    output = walk.folder / "server.txt"
    with output.open("wb") as file:
        command = ["bash", "-c", f"exec {line}"]
        server = subprocess.Popen(command, cwd=walk.folder, env=walk.environment(), stdout=file, stderr=file)
    try:
        until(
            lambda: SERVING.search(output.read_text()) is not None or server.poll() is not None,
            timeout_seconds=limit(120),
            failure=output.read_text,
        )
        found = SERVING.search(output.read_text())
        assert found is not None, output.read_text()
        assert found[1] == "clerk", "the name of the model, not of its step"
        with openai.OpenAI(base_url=f"{found[2]}/v1", api_key="none", timeout=limit(120), max_retries=0) as client:
            assert [one.id for one in client.models.list()] == ["clerk"]
            warm: Any = {"model": "clerk", "messages": [{"role": "user", "content": "Warm?"}], "temperature": 0}
            called: Any = client.chat.completions.create(
                **warm, tools=[WEATHER], tool_choice="required", max_completion_tokens=128
            )
            (choice,) = called.choices
            assert choice.finish_reason == "tool_calls"
            assert choice.message.tool_calls[0].function.name == "weather"
            assert json.loads(choice.message.tool_calls[0].function.arguments) == {"warm": True}
            plain: Any = client.chat.completions.create(**warm, max_completion_tokens=8)
            parts: Any = client.chat.completions.create(**warm, max_completion_tokens=8, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in parts if chunk.choices)
            assert text == plain.choices[0].message.content
            other: Any = client.chat.completions.create(
                **warm, max_completion_tokens=1, extra_body={"chat_template_kwargs": {"enable_thinking": True}}
            )
            assert plain.usage.prompt_tokens - other.usage.prompt_tokens == len("<think></think>"), "as it was trained"
    finally:
        server.terminate()
        assert server.wait(limit(60)) == 0


def test_a_platform_engineer_plans_an_8b(tmp_path: Path) -> None:
    walk = Walk(tmp_path, {})
    document = yaml.safe_load((REPOSITORY / "examples" / "local-llama.yaml").read_text())
    changes: dict[str, Any] = {
        "spec.accelerator": {"type": "v5p", "topology": "2x2x4", "provisioning": "spot"},
        "spec.model": LLAMA_3_8B,
        "spec.tokenizer": {"bpe": {"vocabSize": 128_256}},
        "spec.trainer": {
            "steps": 1000, "batchSize": 16, "sequenceLength": 4096, "precision": {"compute": "bfloat16"},
            "remat": "full", "microbatches": 1,
        },
        "spec.checkpoint.root": "gs://bucket/eight",
        "spec.telemetry": ...,
    }  # fmt: skip
    walk.write("eight.yaml", yaml.safe_dump(changed(document, changes)))
    assert "eight.yaml: local-llama is valid: 1 slice x 4 hosts x 4 devices, 1,000 steps" in walk.run(
        "halcyon validate eight.yaml"
    )
    shown = json.loads(walk.run("halcyon show run eight.yaml --json"))
    assert shown["parameter_count"] == pytest.approx(8.03e9, rel=0.01)
    planned = json.loads(walk.run("halcyon plan eight.yaml --json --assume price=4"))
    memory, numbers = planned["program"]["memory"], planned["plan"]
    assert 0 < memory["parameters"] < memory["step"] < memory["available"]
    assert numbers["run"]["cost"]["value"] == pytest.approx(4 * numbers["run"]["chip-hours"]["value"])
    smaller = (
        "--set spec.accelerator.topology=2x2x1 --set spec.trainer.remat=none --set spec.trainer.attention=reference"
    )
    said = walk.run(f"halcyon plan eight.yaml {smaller}", code=ExitCode.BAD_CONFIGURATION)
    assert "It does not fit: a device lacks " in said


def test_a_researcher_has_a_model_beside_the_document(tmp_path: Path) -> None:
    walk = Walk(tmp_path, {})
    guide = (REPOSITORY / "docs" / "guides" / "custom-models.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    walk.write("study/twogram.py", code)
    changes = {"spec.model": {"family": "custom", "class": "twogram:TwoGram", "config": {"width": 16}}}
    study = small(walk, "study/run", changes | {"metadata.name": "run"})
    said = walk.run(f"halcyon train {study}", code=ExitCode.BAD_CONFIGURATION)
    assert "twogram does not import" in said
    assert "name the folder of the package in PYTHONPATH on this machine" in said
    walk.run(f"PYTHONPATH=study halcyon train {study}")
    assert walk.step("study/run") == 6
    listed = json.loads(walk.run("halcyon checkpoints show study/run --json"))
    assert {leaf["path"] for leaf in listed["manifest"]["leaves"]} >= {"model.earlier.weight", "model.output.weight"}
    same = json.loads(walk.run("halcyon checkpoints diff study/run 6 6 --json"))
    assert same == {"differences": []}
