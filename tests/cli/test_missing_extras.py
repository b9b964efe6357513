"""In a base install, every command answers with the one command that installs what it lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from halcyon_api.package import install, missing
from tests.suite.limits import limit

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = str(ROOT / "examples/local-llama.yaml")
BASE = """
import contextlib, importlib.abc, io, json, sys

hidden = set(json.loads(sys.argv[1]))
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
from halcyon_cli.main import app
answers = []
for words in json.loads(sys.argv[2]):
    written, sys.argv = io.StringIO(), ["halcyon", *words]
    try:
        with contextlib.redirect_stderr(written), contextlib.redirect_stdout(io.StringIO()):
            app(words, prog_name="halcyon")
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        code, written = repr(error), io.StringIO()
    answers.append([code, written.getvalue()])
print(json.dumps(answers))
"""
OF_TRAINER = [
    "equinox",
    "haliax",
    "isal",
    "jax",
    "jaxlib",
    "jaxtyping",
    "numpy",
    "obstore",
    "optax",
    "orjson",
    "prometheus_client",
    "pyarrow",
    "rustbpe",
    "sentencepiece",
    "tensorstore",
    "tiktoken",
    "tokenizers",
    "zstandard",
]
OF_OTHERS = ["kubernetes", "llguidance", "matplotlib", "starlette", "tokamax", "uvicorn"]
OF_A_ROOT = [
    ["sample", "ROOT"], ["samples", "ROOT"], ["chat", "ROOT"], ["serve", "ROOT"], ["doctor", "ROOT"], ["status", "ROOT"],
    ["report", "ROOT"], ["compare", "ROOT", "ROOT"], ["checkpoints", "list", "ROOT"], ["checkpoints", "show", "ROOT"],
    ["checkpoints", "verify", "ROOT"], ["checkpoints", "pin", "ROOT"], ["checkpoints", "gc", "ROOT"],
    ["import", "hf", "ROOT", "--root", "ROOT2"], ["export", "hf", "ROOT", "ROOT2"],
]  # fmt: skip
OF_A_DOCUMENT = [["train"], ["data", "stats"], ["plan"], ["show", "schedule"]]
OF_A_CLUSTER = ["status", "logs", "checkpoint", "suspend", "resume", "restart"]


def answers(hidden: list[str], commands: list[list[str]]) -> list[tuple[object, str]]:
    ended = subprocess.run(
        [sys.executable, "-c", BASE, json.dumps(hidden), json.dumps(commands)],
        capture_output=True, text=True, timeout=limit(60), check=True,
    )  # fmt: skip
    return json.loads(ended.stdout)


@pytest.mark.slow
def test_a_base_install_answers_every_command_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "HEAD").write_text("{}")
    places = {"ROOT": str(tmp_path), "ROOT2": str(tmp_path / "2")}
    commands = [[places.get(word, word) for word in words] for words in OF_A_ROOT]
    commands += [[*words, DOCUMENT] for words in OF_A_DOCUMENT] + [[word, "some-run"] for word in OF_A_CLUSTER]
    for words, (code, written) in zip(commands, answers(OF_TRAINER + OF_OTHERS, commands), strict=True):
        extra = "cli" if words[-1] == "some-run" else "trainer"
        assert code, (words, written)
        assert len(written.splitlines()) == 1, (words, code, written)
        assert install(extra) in written or install("serve") in written, (words, written)
    assert answers(OF_TRAINER + OF_OTHERS, [["validate", DOCUMENT]]) == [[0, ""]], "its rules need no trainer"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden", "words", "extra"),
    [
        ("uvicorn", ["serve", "ROOT"], "serve"),
        ("starlette", ["serve", "ROOT"], "serve"),
        ("pyarrow", ["train", DOCUMENT, "--no-json", "--checkpoint-root", "NEW"], "trainer"),
        ("tensorstore", ["train", DOCUMENT, "--no-json", "--checkpoint-root", "NEW"], "trainer"),
    ],
)
def test_one_missing_package_is_named_with_its_extra(hidden: str, words: list[str], extra: str, tmp_path: Path) -> None:
    (tmp_path / "HEAD").write_text("{}")
    words = [{"ROOT": str(tmp_path), "NEW": str(tmp_path / "new")}.get(word, word) for word in words]
    ended = subprocess.run(
        [sys.executable, "-c", BASE, json.dumps([hidden]), json.dumps([words])],
        capture_output=True, text=True, timeout=limit(60), check=False, cwd=tmp_path,
    )  # fmt: skip
    assert install(extra) in ended.stdout + ended.stderr, ended
    assert "Traceback" not in ended.stdout + ended.stderr


def test_the_sentence_says_that_nothing_is_published() -> None:
    assert missing("wandb.sdk") == (
        "the package wandb is not installed; this needs pip install '.[wandb]' in a checkout of Halcyon, which is not "
        "published yet"
    )
