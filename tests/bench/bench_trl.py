"""Learning from rewards on one processor: Halcyon, and TRL's GRPO trainer, from the same weights, prompts and settings.

A small Llama is finetuned on sums (`examples/finetune-sums.yaml`) and exported. Both sides then train it with group
relative advantages, float32, AdamW, without a reference model, for some seeds. The seeds decide which prompts a step
has and what is sampled, so the curves differ as those of two seeds do. The time of sampling is measured in turns: the
answers of one step, all of the full length, by Halcyon's rollouts and by ``generate`` of transformers, which TRL calls.

    python tests/bench/bench_trl.py [--trl PYTHON] [--steps 40] [--seeds 0 1] [--rounds 5]

PYTHON is an interpreter with trl, torch and datasets. Without it only Halcyon's side runs.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from step_turns import LARGE_PAGES, Peer, Seconds, Turn, in_turns, ratio, seconds, start_on_one_processor, table

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
QUESTIONS = REPOSITORY / "examples/policy-data/questions.jsonl"
ROWS, GROUP, TOKENS, PROMPT = 64, 8, 24, 40
RATE, BETA2, EPSILON = 1e-4, 0.95, 1e-4
WINDOW = 5
"""Steps of which the curves show the mean."""


def halcyon(*words: str) -> str:
    command = [sys.executable, "-m", "halcyon.commands.main", *words]
    paths = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {ended.returncode}\n{ended.stderr[-2000:]}")
    return ended.stdout


def finetuned(folder: Path, steps: int) -> Path:
    """The folder with the exported model that both sides begin with; its run is beside it."""
    root, exported = folder / "sums", folder / "model"
    halcyon(
        "train", "examples/finetune-sums.yaml", "--checkpoint-root", str(root), "--set", f"spec.trainer.steps={steps}"
    )
    halcyon("export", "hf", str(root), str(exported))
    return exported


def own_curve(folder: Path, seed: int, steps: int) -> list[float]:
    """The mean reward of each step of Halcyon's run."""
    policy = {"reward": "trl_child:right", "deviation": "sample", "deviationEpsilon": EPSILON}
    settings = {
        "from.root": str(folder / "sums"),
        "data.validation": None,
        "trainer.evaluation": None,
        "trainer.steps": steps,
        "trainer.seed": seed,
        "optimizer.learningRate": RATE,
        **{f"objective.policy.{name}": value for name, value in policy.items()},
    }
    words = [word for name, value in settings.items() for word in ("--set", f"spec.{name}={json.dumps(value)}")]
    root = folder / f"policy-{seed}"
    lines = halcyon("train", "examples/policy-grpo.yaml", "--json", "--checkpoint-root", str(root), *words).splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return [event["reward"] for event in events if event["event"] == "step"]


def own_turn() -> Turn:
    """Halcyon's answers of one step, from random weights of the example's shape."""
    import haliax as hax
    import jax
    import numpy as np

    from halcyon.inference.rollout import Prompted, Rollouts, RolloutShape
    from halcyon.models import build_model
    from halcyon.parallel.device_mesh import build_mesh
    from halcyon_api.spec.mesh import ResolvedMesh
    from halcyon_api.spec.model import read_model

    shape = {"numHiddenLayers": 2, "hiddenSize": 128, "intermediateSize": 352, "numAttentionHeads": 4}
    vocab, position = hax.make_axes(vocab=512, position=PROMPT + TOKENS)
    made = jax.jit(functools.partial(build_model, read_model({"family": "llama", **shape}), vocab, position))
    model: Any = made(key=jax.random.key(0))
    mesh = build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, tensor=1), jax.devices()[:1])
    rollouts = Rollouts(mesh, RolloutShape(ROWS, PROMPT, TOKENS, 512, 1.0, (), "float32", GROUP), 0)
    tokens = np.random.default_rng(0).integers(1, 512, (ROWS, PROMPT)).astype(np.int32)
    numbers = np.arange(ROWS, dtype=np.uint32)
    prompts = Prompted(tokens, np.full(ROWS, PROMPT, np.int32), numbers // GROUP, numbers % GROUP)

    def run() -> Mapping[str, Seconds]:
        return {"sample": seconds(lambda: rollouts(model, prompts, 0, 0))}

    return run


def smooth(rewards: Sequence[float]) -> list[float]:
    """The means of the windows, without an overlap."""
    return [statistics.fmean(rewards[first : first + WINDOW]) for first in range(0, len(rewards), WINDOW)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl", help="an interpreter with trl, torch and datasets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    for name, default in (("steps", 40), ("sums", 100), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    start_on_one_processor()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        exported = finetuned(folder, options.sums)
        curves = {f"Halcyon, seed {seed}": own_curve(folder, seed, options.steps) for seed in options.seeds}
        turns = {"Halcyon": own_turn()}
        if options.trl is None:
            print("not compared: give an interpreter with trl, torch and datasets with --trl")
            found = in_turns(turns, options.rounds)
        else:
            settings = {
                "rows": ROWS,
                "group": GROUP,
                "tokens": TOKENS,
                "rate": RATE,
                "steps": options.steps,
                "beta2": BETA2,
            }
            words = (exported, QUESTIONS, json.dumps(settings))
            with Peer(options.trl, FOLDER / "trl_child.py", words, LARGE_PAGES) as peer:
                print(peer.facts)
                for seed in options.seeds:
                    curves[f"TRL, seed {seed}"] = peer.ask(f"train {seed}")["rewards"]
                found = in_turns(turns | {"TRL": peer.turn("sample")}, options.rounds)
                print(f"sampling, Halcyon / TRL: {ratio(found, ['Halcyon'], ['TRL'])}")
    print(table(found, ROWS * TOKENS))
    print(f"mean reward of each {WINDOW} steps")
    for name, rewards in curves.items():
        print(f"{name:16}", *(f"{mean:.2f}" for mean in smooth(rewards)), f" all: {statistics.fmean(rewards):.3f}")


if __name__ == "__main__":
    main()
