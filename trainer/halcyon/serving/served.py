"""The model that a server has at a time, and the place it comes from."""

import re
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from halcyon.checkpoint.opening import entry_of
from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.inference.chat import ChatPrompts
from halcyon.inference.grammar import JsonGrammars
from halcyon.models import CausalLM
from halcyon.parallel.device_mesh import tensor_mesh
from halcyon.tokenizer import Tokenizer
from halcyon.weights.chat_template import chat_template
from halcyon.weights.folder import root_place
from halcyon.weights.library import load
from halcyon.weights.root import split_step
from halcyon_api.checkpoint_documents import CommittedStep
from halcyon_api.plain_files import read_text


@dataclass(frozen=True, eq=False)
class Served:
    """One model with everything that a request needs of it.

    Attributes:
        name: The name by which requests choose it.
        model: The model.
        tokenizer: Its tokenizer.
        prompts: Makes the prompts of conversations. None: the model has no chat template.
        step: The step of its checkpoint. None: it is not from a checkpoint.
        path: The path of its checkpoint in the root.
        version: The beginning of the hash of its checkpoint.
        loaded: When it was loaded, in seconds since 1970.
    """

    name: str
    model: CausalLM
    tokenizer: Tokenizer
    prompts: ChatPrompts | None
    step: int | None = None
    path: str = ""
    version: str = ""
    loaded: float = field(default_factory=time.time)

    @property
    def fingerprint(self) -> str:
        """``system_fingerprint`` of answers: it changes with the weights."""
        return "files" if self.step is None else f"step-{self.step}-{self.version}"

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of text of each token."""
        return self.tokenizer.pieces()

    @cached_property
    def grammars(self) -> JsonGrammars:
        """Makes grammars; kept beside the model, because the first one costs some seconds."""
        return JsonGrammars(self.tokenizer, self.ends)

    def end_checks(self) -> None:
        """End the processes that try JSON schemas, if there are any."""
        grammars: JsonGrammars | None = vars(self).get("grammars")
        if grammars is not None:
            grammars.checks.kill()

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return self.prompts.ends if self.prompts is not None else self.tokenizer.ends


@dataclass(frozen=True)
class Source:
    """Where models come from.

    Attributes:
        place: A root, with @STEP or without; or hf:FOLDER.
        name: The name of the model. None: from the place.
        template: A file with a chat template. None: that of the model.
        dtype: Type of the parameters. None: that of the files.
        weights: ``model`` or ``average``; see `halcyon.load`.
        endpoint: Address of an S3-compatible store.
        region: Region of an S3 bucket.
        mesh: ``tensor=N``: the model is divided among N devices. None: it is on one.
    """

    place: str
    name: str | None = None
    template: Path | None = None
    dtype: str | None = None
    weights: Any = "model"
    endpoint: str | None = None
    region: str | None = None
    mesh: str | None = None

    @property
    def is_root(self) -> bool:
        """Whether it is a checkpoint root, which may get newer checkpoints."""
        return not self.place.startswith("hf:")

    def check_follow(self) -> None:
        """Newer checkpoints can come only to a root without a step.

        Raises:
            BadConfiguration: It is something else.
        """
        if not self.is_root or split_step(self.place)[1] is not None:
            raise BadConfiguration(
                f"--follow takes the newest checkpoints of a root; give ROOT without a step instead of {self.place}"
            )

    @property
    def store(self) -> Store:
        """The root."""
        return Store(root_place(split_step(self.place)[0], self.endpoint, self.region))

    def newest(self) -> CommittedStep:
        """The checkpoint to serve: that of the step, or the newest that is not known to be damaged.

        Raises:
            TrainerExit: There is none, or the store does not answer.
            StoreFailure: The store does not answer.
        """
        return entry_of(self.store, split_step(self.place)[1])

    def read(self, entry: CommittedStep | None = None) -> tuple[CausalLM, Tokenizer]:
        """Read the model and its tokenizer.

        Args:
            entry: The checkpoint. None: that which the place names.

        Raises:
            TrainerExit: The place has no model that can be read, no tokenizer, or a checkpoint that is damaged.
        """
        place = self._place(entry)
        model, tokenizer = load(
            place,
            dtype=self.dtype,
            weights=self.weights,
            mesh=None if self.mesh is None else tensor_mesh(self.mesh),
            endpoint=self.endpoint,
            region=self.region,
            images=True,
        )
        if tokenizer is None:
            raise BadConfiguration(f"{place}: it has no tokenizer that Halcyon reads, so text cannot become tokens")
        return model, tokenizer

    def prompts(self, model: CausalLM, tokenizer: Tokenizer, entry: CommittedStep | None = None) -> ChatPrompts | None:
        """The prompts of the given template, the model's, or Halcyon's own; None for a model that has none.

        Raises:
            BadConfiguration: The template is not valid.
        """
        if self.template is not None:
            return ChatPrompts(tokenizer, text_of(self.template, "--template"), sight=model.sight)
        template = chat_template(self._place(entry), endpoint=self.endpoint, region=self.region)
        return ChatPrompts.of(tokenizer, template, sight=model.sight)

    def load(self, entry: CommittedStep | None = None) -> Served:
        """The model with everything that requests need; see `read` and `prompts`."""
        model, tokenizer = self.read(entry)
        prompts = self.prompts(model, tokenizer, entry)
        if entry is None:
            return Served(self._name, model, tokenizer, prompts)
        return Served(self._name, model, tokenizer, prompts, entry.step, entry.path, entry.manifest_sha256[:8])

    def _place(self, entry: CommittedStep | None) -> str:
        return self.place if entry is None else f"{split_step(self.place)[0]}@{entry.step}"

    @property
    def _name(self) -> str:
        """The given name, or the last part of the place that names the model.

        Exports of a run are in ``exports/step-N`` below its root, and snapshots of the hub in
        ``models--OWNER--NAME/snapshots/COMMIT``.
        """
        if self.name:
            return self.name
        place = self.place if self.place.startswith("hf") else split_step(self.place)[0]
        place = place.removeprefix("hf:").removeprefix("//")
        parts = [part for part in (place if "://" in place else str(Path(place).absolute())).split("/") if part]
        if "snapshots" in parts[-2:-1] and parts[-3:-2] and parts[-3].startswith("models--"):
            return parts[-3].split("--")[-1]
        while len(parts) > 1 and (parts[-1] == "exports" or re.fullmatch(r"step-\d+", parts[-1])):
            parts.pop()
        return parts[-1] if parts else "model"


def text_of(path: Path, option: str) -> str:
    """The text of a file that an option names; - is standard input.

    Raises:
        BadConfiguration: It is no text.
    """
    try:
        return sys.stdin.read() if str(path) == "-" else read_text(path)
    except UnicodeDecodeError as error:
        raise BadConfiguration(f"{option}: {path} is no text in UTF-8 at byte {error.start}") from None
