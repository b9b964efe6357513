"""Levanter's side of `bench_levanter_step`: the step of its trainer on a small Llama. Runs in a separate environment.

    python levanter_step_child.py LAYERS WIDTH MLP HEADS LENGTH BATCH VOCABULARY

The cases differ in what the backward pass computes again: `default` is Levanter's default, gradient checkpointing of
every block, and `kept` switches it off. `step_turns` describes the protocol.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import numpy as np
from levanter.checkpoint import CheckpointerConfig
from levanter.models.llama import LlamaConfig
from levanter.models.lm_model import LmExample
from levanter.optim.config import AdamConfig
from levanter.tracker import NoopConfig
from levanter.trainer import Trainer, TrainerConfig


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


class Case:
    """A trainer with its state, and a batch of random tokens.

    The step is that of `Trainer.train_step`: the compiled step without hooks, and the loss on the host. There are no
    default hooks.
    """

    def __init__(self, sizes: list[int], folder: Path, *, checkpointing: bool) -> None:
        layers, width, mlp, heads, length, batch, vocabulary = sizes
        config = LlamaConfig(
            max_seq_len=length,
            hidden_dim=width,
            intermediate_dim=mlp,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=heads,
            gradient_checkpointing=checkpointing,
        )
        settings = TrainerConfig(
            id="bench",
            tracker=NoopConfig(),
            log_dir=folder,
            log_jaxprs=False,
            log_xla_hlo=False,
            train_batch_size=batch,
            num_train_steps=1000,
            checkpointer=CheckpointerConfig(base_path=str(folder)),
            load_checkpoint=False,
        )
        optimizer = AdamConfig(learning_rate=3e-4, weight_decay=0.1).build(1000)

        def loss(model: Any, example: LmExample, *, key: Any = None) -> Any:
            found = model.compute_next_token_loss(example, key=key)
            return found if isinstance(found, tuple) else (found, {})

        self.trainer = Trainer(settings, optimizer, loss, add_default_hooks=False)
        vocab, rows = hax.Axis("vocab", vocabulary), hax.Axis("batch", batch)
        with self.trainer:
            model = config.build(vocab, key=jax.random.PRNGKey(0))
            self.state = self.trainer.initial_state(jax.random.PRNGKey(1), model=model)
            numbers = np.random.default_rng(0).integers(0, vocabulary, (batch, length)).astype(np.int32)
            tokens = hax.named(jax.numpy.asarray(numbers), (rows, config.max_Pos))
            self.batch = hax.vmap(LmExample.causal, rows)(tokens)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.model))
        self.step()  # compiles

    def step(self) -> dict[str, tuple[float, float]]:
        def run() -> None:
            self.state = jax.block_until_ready(self.trainer.train_step(self.state, self.batch).state)

        with self.trainer:
            return {"step": seconds(run)}


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]]
    answers, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            "default": Case(sizes, Path(folder), checkpointing=True),
            "kept": Case(sizes, Path(folder), checkpointing=False),
        }
        facts = {
            "levanter": importlib.metadata.version("marin-levanter"),
            "jax": jax.__version__,
            "parameters": cases["kept"].parameters,
        }
        print(json.dumps(facts), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(cases[line.strip()].step()), file=answers, flush=True)


if __name__ == "__main__":
    main()
