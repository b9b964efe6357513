"""Readers who follow the pages word by word: a first run on a laptop, the finetuning of a published model, and a
nanochat. Short walks take a few steps; whole ones the sizes of the pages.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_devcluster.waiting import until
from tests.chat.toy import write_toy_chain
from tests.examples.documents import REPOSITORY
from tests.examples.test_data_forms import base, share_gpt
from tests.suite.limits import limit
from tests.walks.page import Walk, blocks

pytestmark = pytest.mark.slow


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# A first run on a laptop: first-run.md.

LAPTOP = {"make setup": "true", ".venv/bin/halcyon": "halcyon"}
"""Halcyon is installed already."""
FEW_STEPS = {
    "spec.model.numHiddenLayers": 1,
    "spec.model.hiddenSize": 32,
    "spec.model.intermediateSize": 64,
    "spec.data.sources": [{"name": "python", "stdlib": {"include": ["documentation"]}}],
    "spec.data.cache": {"workers": 1},
    "spec.optimizer.schedule": {"constant": {}},
    "spec.trainer.steps": 6,
    "spec.trainer.sequenceLength": 64,
    "spec.trainer.evaluation": {"everySteps": 3, "batches": 1},
    "spec.checkpoint.save.everySteps": 3,
}


def laptop(folder: Path, sets: dict[str, Any]) -> Walk:
    """A reader with the checkout's examples, whose checkpoints are in their folder."""
    walk = Walk(folder, LAPTOP, sets)
    example = (REPOSITORY / "examples" / "local-llama.yaml").read_text()
    walk.write("examples/local-llama.yaml", example.replace("~/halcyon/", f"file://{folder}/"))
    return walk


def test_a_first_run_on_a_laptop(tmp_path: Path) -> None:
    walk = laptop(tmp_path, FEW_STEPS)
    done = walk.follow("first-run.md")
    assert walk.step("local-llama") == walk.step("my runs/another root") == 6
    (train,) = (command for command, _ in done if command.endswith("halcyon train examples/local-llama.yaml"))
    saved = files_of(tmp_path / "local-llama" / "steps")
    walk.run(train)
    assert files_of(tmp_path / "local-llama" / "steps") == saved, "the same command goes on, and nothing is left to do"
    own_text(walk)


def own_text(walk: Walk) -> None:
    """Train on the reader's own text, as the fragment of the page says."""
    (fragment,) = (text for _, language, text in blocks("first-run.md") if language == "yaml")
    document = yaml.safe_load((walk.folder / "examples" / "local-llama.yaml").read_text())
    for path in ("notes/one.txt", "book/two.md"):
        walk.write(path, "The quick brown fox jumps over the lazy dog.\n" * 200)
    document["spec"] |= yaml.safe_load(fragment.replace("/home/me", str(walk.folder)))
    document["spec"]["checkpoint"]["root"] = f"file://{walk.folder}/notes-run"
    walk.write("notes.yaml", yaml.safe_dump(document))
    sets = {path: value for path, value in walk.sets.items() if path != "spec.data.sources"}
    Walk(walk.folder, {}, sets).run("halcyon train notes.yaml")
    assert walk.step("notes-run") == int(walk.sets.get("spec.trainer.steps", 250))


@pytest.mark.variant
def test_a_whole_first_run_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    walk = laptop(tmp_path, {})
    command = ["bash", "-c", f"exec {walk.command('.venv/bin/halcyon train examples/local-llama.yaml')}"]
    steps = tmp_path / "local-llama" / "steps"

    def has_saved() -> bool:
        return any(int(one.parent.name.partition(".")[0]) > 0 for one in steps.glob("*/COMMIT"))

    with subprocess.Popen(command, cwd=tmp_path, env=walk.environment(), stdout=subprocess.DEVNULL) as process:
        begun, failure = limit(300), lambda: f"the training ended with {process.poll()}, or does not end"
        until(lambda: has_saved() or process.poll() is not None, timeout_seconds=begun, failure=failure)
        process.send_signal(signal.SIGINT)
        until(lambda: process.poll() is not None, timeout_seconds=limit(120), failure=failure)
    assert 0 < walk.step("local-llama") < 250
    walk.follow("first-run.md")
    assert walk.step("local-llama") == walk.step("my runs/another root") == 250


# A published model, finetuned on conversations of ShareGPT: data-forms.md, then finetune.md.


LENGTH = {"sequenceLength: 1024": "sequenceLength: 256", "batchSize: 8": "batchSize: 4"}
"""The small model has 256 positions."""
WORKERS = {"spec.data.cache": {"workers": 1}}


def finetunes(folder: Path, steps: int, sizes: dict[str, str], *, until: str | None) -> Walk:
    """Follow both pages, with a published model in small and conversations of the reader's own."""
    base(folder / "models" / "base")
    share_gpt(folder)
    places = {"root: ~/halcyon": f"root: file://{folder}", "everySteps: 100": f"everySteps: {steps // 2}"}
    done = Walk(folder, places | LENGTH | sizes, WORKERS).follow("data-forms.md")
    (shown,) = (output for command, output in done if command.startswith("halcyon data show"))
    assert "ShareGPT" in shown, "the form of the rows"
    assert "⟦City, " in shown, "what counts in the loss"
    exported = folder / "talks" / "exports" / f"step-{steps}"
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= files_of(exported)
    own = {"gs://my-bucket/halcyon/finetune-qwen3@1750": f"~/halcyon/try@{steps // 2}"}
    if until is None:
        own |= {
            "gs://my-bucket/halcyon/finetune-qwen3@2000": f"~/halcyon/try@{steps}",
            "gs://my-bucket/halcyon/lora-qwen3": "~/lora",
            "hf://Qwen/Qwen3-0.6B": "models/base",
            "gs://my-bucket/mean": "~/mean",
        }
        (adapter,) = (text for _, _, text in blocks("finetune.md") if text.startswith("adapter:\n"))
        document = yaml.safe_load((folder / "run.yaml").read_text())
        document["spec"] |= yaml.safe_load(adapter)
        (folder / "lora.yaml").write_text(yaml.safe_dump(document))
        Walk(folder, {}, WORKERS).run("halcyon train lora.yaml --checkpoint-root ~/lora")
    walk = Walk(folder, own, WORKERS)
    walk.follow("finetune.md", until=until)
    assert "huggingFace: {config" not in (folder / "finetune.yaml").read_text(), "resolve writes the sizes of the model"
    assert walk.step("halcyon/try") == steps
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files_of(folder / "models" / "finetuned")
    return walk


def test_a_published_model_is_finetuned_on_conversations(tmp_path: Path) -> None:
    few = {"steps: 200": "steps: 4", "everySteps: 200": "everySteps: 4", "warmupSteps: 10": "warmupSteps: 1"}
    finetunes(tmp_path, 4, few, until="An adapter instead of all weights")


@pytest.mark.variant
def test_a_published_model_is_finetuned_for_the_steps_of_the_page(tmp_path: Path) -> None:
    walk = finetunes(tmp_path, 200, {}, until=None)
    assert "adapter_config.json" in files_of(tmp_path / "models" / "adapter")
    assert "model.safetensors" in files_of(tmp_path / "models" / "merged") & files_of(tmp_path / "models" / "mean")
    assert walk.step("halcyon/base") == 0


# A nanochat: nanochat.md, and the chain of chat.md.

SMALLER = {
    "--depth 4 --sequence-length 512": "--depth 2 --sequence-length 64",
    "--vocabulary 1024 --head-dim 64 --batch-tokens 16384 --steps 600": (
        "--vocabulary 512 --head-dim 16 --batch-tokens 512 --steps 6 --warmup-steps 2"
    ),
}
DOCUMENTATION = {
    "spec.data.sources": [{"name": "python", "stdlib": {"include": ["documentation"]}}],
    "spec.data.cache": {"workers": 1},
}


def test_a_nanochat_from_a_depth(tmp_path: Path) -> None:
    walk = Walk(tmp_path, SMALLER, DOCUMENTATION | {"spec.checkpoint.root": f"file://{tmp_path}/nanochat"})
    walk.follow("nanochat.md")
    assert walk.step("nanochat") == 6
    text = walk.run("halcyon sample nanochat --prompt 'def main(' --max-tokens 4")
    assert text.startswith("def main(")


def test_the_dial_prints_the_document_of_the_page(tmp_path: Path) -> None:
    walk = Walk(tmp_path, {})
    (line,) = (
        line for _, language, text in blocks("nanochat.md") for line in text.splitlines() if "> run.yaml" in line
    )
    walk.run(line)
    (shown,) = (text for _, language, text in blocks("nanochat.md") if language == "yaml" and "apiVersion" in text)
    assert (tmp_path / "run.yaml").read_text() == shown


@pytest.mark.variant
def test_from_text_to_a_chat_model(tmp_path: Path) -> None:
    """The whole chain of `make chat`, with toy models."""
    documents = write_toy_chain(tmp_path / "documents")
    chain = f"python -m halcyon_chat --folder {tmp_path}/.halcyon/chat --documents {documents} --no-serve"
    walk = Walk(tmp_path, {"make chat": chain})
    done = dict(walk.follow("chat.md"))
    assert (tmp_path / ".halcyon" / "chat" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "report.html").stat().st_size > 10_000
    (text,) = (output for command, output in done.items() if command.startswith("halcyon sample "))
    assert text.startswith("def main(")
