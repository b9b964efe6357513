"""The Python of docs/guides/library.md runs from top to bottom, and prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from halcyon_devcluster.machine import limit
from tests.examples.documents import REPOSITORY
from tests.trainer.support.shared_programs import QUICK_FLAGS

PAGE = REPOSITORY / "docs" / "guides" / "library.md"
AFTER = """
assert tried.complete and not tried.resumable and set(tried.given) == {"model", "optimizer", "objective", "batches"}
assert abs(float(tried.model(np.ones(4, np.float32))[0]) - 4) < 1.5
assert answer.prompt == tuple(messages) and answer.tokens
assert {path.name for path in Path("exported").iterdir()} >= {"config.json", "model.safetensors"}
assert found.tasks["arc-easy"].examples == 1 and len(found.answers["arc-easy"]) == 1
exported, _ = halcyon.load("hf:exported")
assert np.allclose(halcyon.logits(exported, [tokens_of_the_prompt]), scores, atol=1e-4)
assert ended.complete and ended.step == 40 and losses[40] < 0.7 * losses[1], losses
assert scores.shape == (1, len(tokens_of_the_prompt), tokenizer.vocab_size) and str(scores.dtype) == "float32"
assert same.prompt == tuple(ids) and same.tokens[: len(completion.tokens)] == completion.tokens, (same, completion)
assert 4.5 < float(value) < 7
assert by_name["model.layers.0.self_attn.q_proj.weight"].shape == (32, 32)
assert sorted(ratios) == [10, 20, 30, 40] and all(0 < ratio < 1 for ratio in ratios.values()), ratios
first = dict(losses)
again = halcyon.train(document, hooks=halcyon.Hooks(on_step=lambda step: losses.update({step.step: None})))
assert again == ended and losses == first, "a complete run does no step again"
seen = {"step": [], "evaluation": [], "checkpoint": []}
hooks = halcyon.Hooks(
    on_step=lambda step: seen["step"].append(step.loss),
    on_evaluation=lambda step, found: seen["evaluation"].append(step),
    on_checkpoint=lambda entry: seen["checkpoint"].append(entry.step),
)
document["spec"]["trainer"]["evaluation"] = {"everySteps": 20, "batches": 1}
rare = {"steps": [], "end": []}
jumps = halcyon.Hooks(every=15, on_step=lambda step: rare["steps"].append(step.step), on_end=rare["end"].append)
other = halcyon.train(document, checkpoint_root="other-run", hooks=[hooks, jumps])
assert rare == {"steps": [15, 30, 40], "end": [other]}, rare
assert seen == {"step": [first[step] for step in sorted(first)], "evaluation": [20, 40], "checkpoint": [20, 40]}, seen
assert other.root.endswith("/other-run")


def failing(step):
    raise KeyError("a mistake in a hook")


for spec, error in (({"task": "data"}, "spec.task"), ({"optimizer": {"lr": 1}}, "unknown field"), ({"accelerator": CPU}, "train first")):
    try:
        halcyon.train({**document, "spec": {**document["spec"], **spec}}, checkpoint_root="third")
    except halcyon.host.errors.BadConfiguration as refused:
        assert error in str(refused), refused
    else:
        raise AssertionError(spec)
try:
    halcyon.train(document, checkpoint_root="fourth", hooks=halcyon.Hooks(on_step=failing))
except KeyError:
    pass
else:
    raise AssertionError("an error of a hook ends the training")
"""


@pytest.mark.slow
@pytest.mark.variant
def test_the_code_of_the_guide_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 11
    code = "\n".join(
        [*blocks[:5], "tokens_of_the_prompt = tokens", *blocks[5:], 'CPU = {"type": "cpu", "topology": "1x2"}', AFTER]
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "HALCYON_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_FLAGS},
        capture_output=True,
        text=True,
        timeout=limit(300),
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    assert re.search(r"^40 steps, loss \d\.\d\d to \d\.\d\d, checkpoints in file://", done.stdout, re.MULTILINE)
    assert "6 times seven is" in done.stdout
