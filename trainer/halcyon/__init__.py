"""Halcyon's trainer: sharded training of language models. A run that is killed at any moment resumes with bitwise the
same losses.

Names for library users:

- `build_model`: a model of any family with random parameters, from ``spec.model`` of a run.
- `Inputs` and `Outputs`: the arguments and results of a model.
- `build_optimizer` and `learning_rate`: the update rule and the learning rate schedule, from ``spec.optimizer``.
- `build_objective`: the loss, from the spec of a run.
- `Sums`: what a loss returns whose rows have different weights.
- `load` and `logits`: a model from a checkpoint root or from the files of Hugging Face, and what it computes.
- `generate` and `Completion`: text for prompts and conversations.
- `evaluate` and `Evaluated`: benchmarks on a model.
- `export`: the model of a checkpoint in the files of Hugging Face.
- `file_tensors`: parameters or gradients by the names that they have in an exported file.
- `train`, `Hooks` and `Trained`: a complete training in this process, from a run document to the last commit; of a
  model, an update rule, a loss or batches of your own too.
- `StepView`: what a hook inside the compiled step sees.
- `resolve_context`: a run document with its place on this machine.

Importing `halcyon` imports neither JAX nor a model; each name loads its module at its first use.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halcyon.evals.library import Evaluated, evaluate
    from halcyon.inference import Completion, generate
    from halcyon.models import Inputs, Outputs, build_model
    from halcyon.optim import build_optimizer, learning_rate
    from halcyon.run.context import resolve_context
    from halcyon.run.library import Hooks, Trained, train
    from halcyon.step.in_step import StepView
    from halcyon.step.objectives import build_objective
    from halcyon.step.objectives.objective import Sums
    from halcyon.weights.export import export
    from halcyon.weights.library import file_tensors, load, logits

_MODULES = {
    "Completion": "halcyon.inference",
    "Evaluated": "halcyon.evals.library",
    "Hooks": "halcyon.run.library",
    "Inputs": "halcyon.models",
    "Outputs": "halcyon.models",
    "StepView": "halcyon.step.in_step",
    "Sums": "halcyon.step.objectives.objective",
    "Trained": "halcyon.run.library",
    "build_model": "halcyon.models",
    "build_objective": "halcyon.step.objectives",
    "build_optimizer": "halcyon.optim",
    "evaluate": "halcyon.evals.library",
    "export": "halcyon.weights.export",
    "file_tensors": "halcyon.weights.library",
    "generate": "halcyon.inference",
    "learning_rate": "halcyon.optim",
    "load": "halcyon.weights.library",
    "logits": "halcyon.weights.library",
    "resolve_context": "halcyon.run.context",
    "train": "halcyon.run.library",
}

__all__ = [
    "Completion",
    "Evaluated",
    "Hooks",
    "Inputs",
    "Outputs",
    "StepView",
    "Sums",
    "Trained",
    "build_model",
    "build_objective",
    "build_optimizer",
    "evaluate",
    "export",
    "file_tensors",
    "generate",
    "learning_rate",
    "load",
    "logits",
    "resolve_context",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'halcyon' has no attribute {name!r}; it has {', '.join(__all__)}")
    if importlib.util.find_spec("jax") is None:
        from halcyon_api.package import (
            missing,
        )  # the process of a sandboxed program imports this file, and has no other package

        raise ImportError(missing("jax"))
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
