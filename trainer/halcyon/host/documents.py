"""Paths of this machine in the run document and on the command line, and the variables of the document on this
machine.
"""

import glob
import os
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from halcyon_api.spec.variables import VariableSpec
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import Problem

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "halcyon"
"""Directory of what the user's processes keep."""
DEFAULT_COMPILATION_CACHE = CACHE / "compilation"
"""Directory of compiled programs."""


def is_local(spec: TrainingRunSpec) -> bool:
    """Whether a run trains on this machine: its checkpoint root is a directory, and it uses no volume of a cluster."""
    return (
        spec.checkpoint.root.startswith("file://") and spec.checkpoint.volume_claim is None and spec.data.volume is None
    )


def local_paths(spec: TrainingRunSpec) -> dict[str, str]:
    """The paths of files that a run reads, by field of the document, without addresses of stores and servers."""
    named = {
        f"spec.data.sources[{source.name}].{source.kind}.paths[{number}]": path
        for source in spec.data.sources
        for number, path in enumerate(source.paths)
    }
    tokenizer, tasks = spec.tokenizer, spec.trainer.evaluation.tasks
    for kind, section in (
        ("tokenizerJson", tokenizer.tokenizer_json),
        ("tiktoken", tokenizer.tiktoken),
        ("sentencePiece", tokenizer.sentence_piece),
    ):
        named |= {f"spec.tokenizer.{kind}.path": section.path} if section and section.path else {}
    for name, path in (tasks.files if tasks is not None else {}).items():
        named[f"spec.trainer.evaluation.tasks.files.{name}"] = path
    paths = {field: path.removeprefix("file://") for field, path in named.items()}
    return {field: path for field, path in paths.items() if "://" not in path}


def missing_files(spec: TrainingRunSpec) -> tuple[Problem, ...]:
    """The problems of a local run's files that do not exist; empty for a run in a cluster, whose files are not on this
    machine.
    """
    if not is_local(spec):
        return ()
    return tuple(Problem(field, _missing(path)) for field, path in local_paths(spec).items() if not _exists(path))


def set_variables(variables: Sequence[VariableSpec], environ: MutableMapping[str, str]) -> list[str]:
    """Set the variables of ``spec.env`` that the environment lacks, on the user's own machine, where no operator sets
    them.

    Call it before JAX is imported, because JAX reads some of them once.

    Returns:
        A sentence for each variable whose value only a cluster has.
    """
    missing: list[str] = []
    for variable in variables:
        if variable.name in environ:
            continue
        if variable.value is not None:
            environ[variable.name] = variable.value
        else:
            missing.append(
                f"spec.env[{variable.name}]: a Secret of a cluster has its value; set it in your shell if you need it"
            )
    return missing


def _exists(path: str) -> bool:
    whole = os.path.expanduser(path)  # noqa: PTH111 - an unknown ~name stays
    return Path(whole).exists() or next(glob.iglob(whole, recursive=True), None) is not None  # noqa: PTH207 - absolute patterns too


def _missing(path: str) -> str:
    where = "" if path.startswith(("/", "~")) else f" below {Path.cwd()}"
    return f"no file matches {path}{where}; give a file, a directory or a glob that exists"
