"""`halcyon.train` with a model, an update rule, a loss and batches of the caller: they train through the run's own loop,
mesh and checkpoints, and a fresh process with the same objects goes on to the same bits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import halcyon
from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.step.batches_override import Batches
from halcyon.step.overrides import ModelParts, Overrides
from halcyon.telemetry.history.reading import read_history
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.suite.limits import limit
from tests.trainer.support.shared_programs import QUICK_FLAGS

EXPERIMENT = """
import os, signal, sys, threading
import equinox as eqx, jax, numpy as np, optax
import halcyon

def model():
    return eqx.nn.MLP(4, 1, 16, 2, key=jax.random.key(0))

def batches(seed=0):
    random = np.random.default_rng(seed)
    while True:
        x = random.standard_normal((16, 4)).astype(np.float32)
        yield {"x": x, "y": x.sum(1)}

def loss(model, batch, key):
    return ((jax.vmap(model)(batch["x"])[:, 0] - batch["y"]) ** 2).mean()

rule = optax.inject_hyperparams(optax.adam)(optax.cosine_decay_schedule(1e-2, 40))
"""
RUN = """
DOCUMENT = {
    "apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRun", "metadata": {"name": "sums"},
    "spec": {
        "accelerator": {"type": "cpu", "topology": "1x2"}, "trainer": {"steps": 40, "microbatches": 2},
        "checkpoint": {"root": "file://" + sys.argv[1], "save": {"everySteps": 10}},
    },
}
committed, losses = threading.Event(), {}

def see(step):
    losses[step.step] = (step.loss.hex(), step.learning_rate)
    if "stop" in sys.argv and step.step == 25:
        assert committed.wait(60)
        sys.exit(3)
    if "interrupt" in sys.argv and step.step == 5:
        os.kill(os.getpid(), signal.SIGINT)

hooks = halcyon.Hooks(on_step=see, on_checkpoint=lambda entry: entry.step == 20 and committed.set())
names = {} if "unnamed" not in sys.argv[1] else {"batches": batches(), "objective": loss}
ended = halcyon.train(
    DOCUMENT, hooks=hooks, log=sys.stdout,
    **{"model": "experiment:model", "optimizer": "experiment:rule", "objective": "experiment:loss",
       "batches": "experiment:batches", **names},
)
print(repr([losses, ended.step, ended.complete, ended.resumable, float(loss(ended.model, next(batches()), None))]))
"""


def end_of(root: Path) -> tuple[str, str]:
    """The cause of the last end in the history of a root, and its sentence."""
    last = read_history(Store(CheckpointSpec(root=f"file://{root}"))).groups[-1]
    return last.ended, last.message


def ran(folder: Path, root: str, *more: str, code: int = 0) -> tuple[list[dict[str, Any]], list[Any]]:
    """Run the experiment in a process of its own. Returns its log and what it prints at its end."""
    (folder / "experiment.py").write_text(EXPERIMENT)
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "HALCYON_"))}
    ended = subprocess.run(
        [sys.executable, "-c", EXPERIMENT + RUN, str(folder / root), *more],
        cwd=folder,
        env=keep | {"XDG_CACHE_HOME": str(folder / "cache"), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_FLAGS},
        capture_output=True,
        text=True,
        timeout=limit(120),
        check=False,
    )
    assert ended.returncode == code, ended.stdout[-2000:] + ended.stderr[-4000:]
    *log, last = ended.stdout.splitlines()
    return [json.loads(line) for line in log], [] if code else eval(last, {"inf": float("inf")})  # noqa: S307 - own text


@pytest.mark.slow
def test_given_objects_train_and_go_on_in_a_fresh_process(tmp_path: Path) -> None:
    log, (losses, step, complete, resumable, after) = ran(tmp_path, "whole")
    assert (step, complete, resumable) == (40, True, True)
    assert float.fromhex(losses[40][0]) < 0.3 * float.fromhex(losses[1][0])
    assert after < 0.3 * float.fromhex(losses[1][0]), "the result has the trained model"
    assert losses[1][1] == pytest.approx(1e-2)
    assert losses[40][1] < 1e-3
    (placed,) = [event for event in log if event["event"] == "placed"]
    assert placed["overrides"]["model"] == "experiment:model"
    assert not [event for event in log if event["event"] == "warning"]
    assert end_of(tmp_path / "whole") == ("completed", "all 40 steps are done and saved")
    ran(tmp_path, "unnamed", "stop", code=3)
    assert end_of(tmp_path / "unnamed") == ("failed", "SystemExit: 3")
    log, (found, *_, resumable, _) = ran(tmp_path, "unnamed")
    assert not resumable, "a generator and a function have no import path"
    assert [event["step"] for event in log if event["event"] == "restored"] == [20]
    (warning,) = [event["message"] for event in log if event["event"] == "warning"]
    assert warning.startswith("objective, batches were given to halcyon.train without import paths")
    assert found == {number: numbers for number, numbers in losses.items() if number > 20}


@pytest.mark.slow
@pytest.mark.variant
def test_an_interrupt_is_the_end_in_the_history(tmp_path: Path) -> None:
    _, (_, step, complete, *_) = ran(tmp_path, "interrupted", "interrupt")
    assert not complete
    assert end_of(tmp_path / "interrupted") == ("preempted", f"stopped by you; step {step} is saved")


def batch(rows: int = 4) -> dict[str, np.ndarray]:
    return {"x": np.ones((rows, 3), np.float32), "y": np.zeros(rows, np.int32)}


def test_a_module_keeps_what_is_no_parameter() -> None:
    module = {"weight": jnp.ones((2, 3)), "count": jnp.arange(3), "activation": jax.nn.relu, "none": None}
    parts = ModelParts.of(module)
    assert len(jax.tree.leaves(parts.parameters)) == 1
    again = parts.module(jax.tree.map(lambda x: 2 * x, parts.parameters))
    np.testing.assert_array_equal(again["weight"], 2 * module["weight"])
    assert {name: again[name] is module[name] for name in ("count", "activation", "none")} == dict.fromkeys(
        ("count", "activation", "none"), True
    )
    rule = parts.transformation(optax.sgd(1.0))
    changes, _ = rule.update(parts.parameters, rule.init(parts.parameters), parts.parameters)
    np.testing.assert_array_equal(changes["weight"].array, -module["weight"])


def test_an_iterator_and_a_sequence_give_the_batch_of_a_step() -> None:
    several = [{"x": np.full((2, 1), number)} for number in range(5)]
    for given in (several, iter(several)):
        batches = Batches(given)
        assert [int(batches.checked(step)["x"][0, 0]) for step in (0, 2, 4)] == [0, 2, 4]
        assert batches.rows.batch_size == 2
        with pytest.raises(BadConfiguration, match="batches: there is no batch for step 6; give more batches"):
            batches.at(5)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (batch(), "batches: it is a dict; give a sequence or an iterator of batches"),
        ([np.ones(3)], "batches: a batch is a ndarray; give dictionaries of arrays by name"),
        ([{"x": np.ones((2, 3)), "y": np.ones(3)}], "batches: the first axis of each array is the rows of the batch"),
        ([], "batches: there is no batch for step 1"),
        ([batch(), batch(2)], r"batches: the batch of step 2 has x float32 \[2, 3\], y int32 \[2\], and the first one"),
    ],
    ids=["one batch", "no names", "rows", "none", "other shapes"],
)
def test_batches_that_cannot_be_trained_on_are_rejected(given: Any, sentence: str) -> None:
    with pytest.raises(BadConfiguration, match=sentence):
        Batches(given).checked(1)


MODULE = eqx.nn.Linear(2, 1, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": MODULE}, "model: Linear is no halcyon.models.CausalLM, .* give objective and optimizer too"),
        ({"model": 3}, "model: it is a int; give an Equinox module, or a function that makes it"),
        ({"model": "json:nothing"}, "model: json:nothing is no import path module:name of an object"),
        ({"optimizer": "adam"}, "optimizer: adam is no import path"),
        ({"optimizer": lambda: 1e-3}, "optimizer: it is a float; give a gradient transformation of Optax"),
        ({"objective": 3}, r"objective: it is a int; give a function loss\(model, batch, key\)"),
    ],
    ids=["model alone", "no module", "no attribute", "no path", "no rule", "no loss"],
)
def test_objects_of_another_kind_are_rejected(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadConfiguration, match=sentence):
        _ = [getattr(Overrides(**given), name) for name in ("parts", "transformation", "loss")]


@pytest.mark.parametrize(
    ("spec", "given", "sentence"),
    [
        (
            {"model": {"family": "llama"}},
            {"model": MODULE},
            "spec.model: it does not go together with model, which is given",
        ),
        ({"data": {"sources": [{}]}}, {"batches": [batch()]}, "spec.data: it does not go together with batches"),
        ({"trainer": {"steps": 2, "batchSize": 8}}, {"batches": [batch()]}, "spec.trainer.batchSize: it is 8, but"),
        ({"export": {"everySteps": 2}}, {"model": MODULE}, "spec.export: it does not go together with model"),
        (
            {"trainer": {"steps": 2, "evaluation": {"everySteps": 1}}},
            {"batches": [batch()]},
            "spec.trainer.evaluation.everySteps: it does not go together with batches",
        ),
        (
            {"trainer": {"steps": 2, "microbatches": "auto"}},
            {"batches": [batch()]},
            "spec.trainer.microbatches: auto needs a document",
        ),
    ],
    ids=["model", "data", "batch size", "export", "evaluation", "auto"],
)
def test_a_document_must_not_contradict_the_objects(spec: Any, given: dict[str, Any], sentence: str) -> None:
    trainer = {"steps": 2, **({} if "batches" in given else {"batchSize": 8})}
    text = {"sources": [{"name": "a", "text": {"paths": ["a.txt"]}}], "validation": {"fraction": 0.1}}
    sections: dict[str, Any] = {
        "accelerator": {"type": "cpu"},
        "trainer": trainer,
        "checkpoint": {"root": "file:///var/tmp/given"},
        **({} if "batches" in given else {"data": text}),
        **({} if "model" in given else {"model": {"family": "llama"}}),
    }
    document = {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "given"},
        "spec": {**sections, **spec},
    }
    with pytest.raises(BadConfiguration, match=sentence):
        halcyon.train(document, **given)
