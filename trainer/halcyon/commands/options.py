"""Options and arguments that several commands have, described in one place, and the run that they name."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from halcyon.host.errors import BadConfiguration
from halcyon_api.defaults.files import load_resolved
from halcyon_api.plain_files import read_text
from halcyon_api.training_run import TrainingRun
from halcyon_api.validation import find_problems

if TYPE_CHECKING:
    from halcyon.inference import Sampling
    from halcyon.serving.served import Source

Command = Callable[..., None]
_ENTRY = re.compile(r"^ {4}(\w+)(?: \((.+?)\))?: (.*(?:\n {8}.*)*)", re.MULTILINE)
"""An argument, its value as the help shows it, and its meaning, in the section ``Args`` of a docstring."""


class Commands(typer.Typer):
    """A group of commands, which are functions without any word about the command line.

    An argument without a default is an argument, another one is an option. The docstring has the help: before its
    section ``Args`` that of the command, and in this section that of each argument, after the name and, in brackets,
    the value as the help shows it. A truth that is false without the option has only the option that makes it true. A
    parameter that is a dataclass has an option for each field, with the defaults of its own default and the help in the
    docstring of the class. Everything else is in the annotation, as typer reads it.
    """

    def __init__(self, about: str, **settings: Any) -> None:
        super().__init__(help=about, no_args_is_help=True, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Command], Command]:
        """Adds a function as a command, and leaves the function as it is."""
        add = super().command(name, **settings)

        def added(function: Command) -> Command:
            add(_with_options(function))
            return function

        return added


def _with_options(command: Command) -> Command:
    own = inspect.signature(command, eval_str=True).parameters.values()
    groups = {one.name: cast("type[Any]", one.annotation) for one in own if is_dataclass(one.annotation)}
    fields = {name: inspect.signature(group, eval_str=True).parameters for name, group in groups.items()}
    helps = {
        entry[1]: (entry[2], " ".join(entry[3].split()))
        for described in (*(kind for group in groups.values() for kind in reversed(group.__mro__)), command)
        for entry in _ENTRY.finditer(inspect.getdoc(described) or "")
    }
    options: list[inspect.Parameter] = []
    for parameter in own:
        for one in fields.get(parameter.name, {parameter.name: parameter}).values():
            has_own = parameter.name in groups and parameter.default is not parameter.empty
            default = getattr(parameter.default, one.name) if has_own else one.default
            kind = _described(one.name, one.annotation, default, *helps.get(one.name, (None, None)))
            options.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        made = {name: group(**{one: given.pop(one) for one in fields[name]}) for name, group in groups.items()}
        command(**made, **given)

    run.__doc__ = (inspect.getdoc(command) or "").partition("\n\nArgs:")[0]
    vars(run)["__signature__"] = inspect.Signature(options)
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def _described(name: str, kind: Any, default: Any, value: str | None, meaning: str | None) -> Any:
    """The annotation of an option with its help."""
    annotated = next((part for part in (kind, *get_args(kind)) if hasattr(part, "__metadata__")), None)
    given: Any
    if annotated is not None:
        given, optional = annotated.__metadata__[0], annotated is not kind
        kind = annotated.__origin__ | None if optional else annotated.__origin__
    elif default is inspect.Parameter.empty:
        given = typer.Argument()
    else:
        given = typer.Option(f"--{name.replace('_', '-')}") if default is False else typer.Option()
    described = copy(given)
    described.help, described.metavar = meaning or given.help, value or given.metavar
    return Annotated[kind, described]


AtLeast0 = Annotated[int, typer.Option(min=0)]
AtLeast1 = Annotated[int, typer.Option(min=1)]
Document = Annotated[Path, typer.Argument(help="The TrainingRun document, such as run.yaml.", metavar="RUN.YAML")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Set one field, such as spec.trainer.steps=100; null removes it. May be repeated.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
NewRoot = Annotated[str, typer.Option(help="The checkpoint root to make: a directory, s3:// or gs://.")]
Device = Annotated[
    Literal["cpu"] | None, typer.Option(help="cpu: on the processor. Default: the accelerator that the document names.")
]

Dtype = Literal["float32", "bfloat16", "float16"]
"""Types of parameters."""
Kept = Literal["model", "average"]
"""Weights of a checkpoint."""
Place = Annotated[
    str,
    typer.Argument(
        help="A checkpoint root, with @STEP for a step that is not the newest; or hf:FOLDER, a model in the files of "
        "Hugging Face.",
        metavar="ROOT[@STEP]",
    ),
]
Template = Annotated[
    Path | None, typer.Option(help="A file with the chat template (Jinja). Default: that of the model.")
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Most tokens of a text. Default: 128, or fewer if the model's positions end.")
]
_OPTIONS = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")
"""Names of settings in the errors of the engine."""


@dataclass(frozen=True)
class StoreSettings:
    """How a command reaches the store of a root.

    Args:
        endpoint: Address of an S3-compatible store other than AWS.
        region: Region of an S3 bucket.
    """

    endpoint: str | None = None
    region: str | None = None


@dataclass(frozen=True)
class Changes:
    """What a command changes in a document.

    Args:
        defaults: File with TrainingRunDefaults for fields that the run does not set; may be repeated, the most specific
            first.
    """

    defaults: list[Path] | None = None
    overrides: Overrides = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The same as arguments of functions that read documents."""
        return {"defaults": tuple(self.defaults or ()), "overrides": tuple(self.overrides or ())}


NO_CHANGES = Changes()


@dataclass(frozen=True)
class Loaded:
    """How a command reads a model and computes with it.

    Args:
        dtype: Type of the parameters. int8: weights and tables of tokens in 8 bits. Default: that of the checkpoint or
            the files.
        compute: Type of activations, matrix products and the cache.
        mesh: tensor=N: the model is divided among N devices of this process. Default: one device.
        endpoint: Address of an S3-compatible store other than AWS.
        region: Region of an S3 bucket.
    """

    dtype: Literal["float32", "bfloat16", "float16", "int8"] | None = None
    compute: Literal["float32", "bfloat16"] = "float32"
    mesh: str | None = None
    endpoint: str | None = None
    region: str | None = None

    def source(self, place: str, **further: Any) -> Source:
        """Where the model comes from."""
        from halcyon.serving.served import Source

        own = {name: value for name, value in vars(self).items() if name != "compute"}
        return Source(place, **own, **further)


@dataclass(frozen=True)
class Chosen:
    """How a command chooses tokens.

    Args:
        temperature: The logits are divided by it. 0: always the most likely token.
        top_k: Choose among this number of the most likely tokens. 0: among all.
        top_p: Choose among the most likely tokens whose probabilities reach this sum.
        seed: Decides the random numbers. Each later prompt has the next number.
    """

    temperature: Annotated[float, typer.Option(min=0)] = 1.0
    top_k: AtLeast0 = 0
    top_p: Annotated[float, typer.Option(max=1)] = 1.0
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0

    def sampling(self, **further: Any) -> Sampling:
        """The settings of the engine.

        Raises:
            BadConfiguration: The engine does not take them.
        """
        from halcyon.inference.sampling import Sampling

        with bad_options():
            return Sampling(**vars(self), **further)


@dataclass(frozen=True)
class ChosenText(Chosen):
    """How a command chooses the tokens of a text.

    Args:
        min_p: Leave out tokens below this part of the greatest probability.
        repetition_penalty: Makes tokens of the prompt and the text less likely if above 1.
    """

    min_p: Annotated[float, typer.Option(min=0, max=1)] = 0.0
    repetition_penalty: float = 1.0


@contextmanager
def bad_options() -> Iterator[None]:
    """A value that the engine does not take, as one sentence about the option."""
    try:
        yield
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        option = f"--{name.replace('_', '-')}" if name in _OPTIONS else name
        raise BadConfiguration(f"{option} {rest}") from None


def resolved(document: Path, changes: Changes) -> TrainingRun:
    """The run of a document with its defaults and changes.

    Raises:
        InvalidRun: It is not valid.
    """
    from halcyon.weights.model_file import read_model

    return load_resolved(document, read_model=read_model, **changes.arguments)


def valid_training(document: Path, changes: Changes) -> TrainingRun:
    """A run of task train, with its defaults and changes.

    Raises:
        InvalidRun: See `resolved`.
        BadConfiguration: The run has a problem, or another task.
    """
    run = resolved(document, changes)
    if problems := find_problems(run.spec):
        raise BadConfiguration("; ".join(map(str, problems)))
    if run.spec.task != "train":
        raise BadConfiguration(
            f"spec.task: a run of task {run.spec.task} has no training step; only task train has a plan and schedules"
        )
    return run


def print_json(document: Mapping[str, Any]) -> None:
    """Print what `Json` asks for."""
    sys.stdout.write(f"{json.dumps(document, indent=1)}\n")


def text_of(file: Path, most_bytes: int) -> str:
    """The text of a file that a user names.

    Args:
        file: The file.
        most_bytes: Size of the longest one.

    Raises:
        BadConfiguration: It cannot be read, is longer, or is no text.
    """
    try:
        return read_text(file, most_bytes=most_bytes)
    except OSError as error:
        raise BadConfiguration(f"{file}: {error.strerror}; give another path") from None
    except UnicodeDecodeError:
        raise BadConfiguration(f"{file}: it is no text in UTF-8; give another path") from None


def require_folder(file: Path, option: str) -> None:
    """Check, before long work, that the folder of a file to write exists.

    Raises:
        BadConfiguration: It does not.
    """
    if not file.absolute().parent.is_dir() or file.is_dir():
        raise BadConfiguration(f"{option} {file}: give a file in a folder that exists")
