"""The form of a family in the files of Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from halcyon.models.published.config import ConfigReader
from halcyon.models.published.tensors import Tensors
from halcyon_api.spec.families.section import ModelSection

_FUSED = ".mlp.experts.gate_up_proj"
_TIED = "tie_word_embeddings"


@dataclass(frozen=True)
class PublishedForm:
    """A class of transformers: its name, its tensors, and its config.json.

    Attributes:
        model_type: ``model_type`` of its config.json.
        architectures: Names in ``architectures`` of its config.json; an export has the first.
        tensors: The tensors of a model with a section of the family.
        read: Makes the section from a config.json. It raises ``BadConfiguration`` for a value that the family does not
            compute.
        write: Makes the entries of config.json from a section and the longest sequence in tokens. It leaves out what
            all families have: ``architectures``, ``model_type``, ``vocab_size``, ``dtype`` and the ids of special
            tokens.
        positions: The key of config.json with the longest sequence in tokens.
        defaults: Values of keys that published files leave out because they are those of the class in transformers.
        covers: Whether a model with this section has this form. The first form of a family that covers it is taken.
        fused: Like `tensors`, for files with the gates and ups of all experts of a layer in one tensor. None: there are
            no such files.
    """

    model_type: str
    architectures: tuple[str, ...]
    tensors: Callable[[Any], Tensors]
    read: Callable[[ConfigReader], ModelSection]
    write: Callable[[Any, int], dict[str, Any]]
    positions: str = "max_position_embeddings"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    covers: Callable[[Any], bool] = lambda section: True
    fused: Callable[[Any], Tensors] | None = None

    def completed(self, config: ConfigReader) -> ConfigReader:
        """The configuration of the text model, with `defaults`.

        In that of a model with images, it is an object of its own.
        """
        text = config.inner("text_config")
        # transformers ties the head of a model with images by the outer object.
        outer = {_TIED: config.document[_TIED]} if config.has(_TIED) else {}
        return ConfigReader(
            {**self.defaults, **config.document, **({} if text is None else text.document), **outer}, config.where
        )

    def tensors_in(self, section: Any, names: Iterable[str]) -> Tensors:
        """The tensors of a model with this section in files whose tensors have these names. An export has `tensors`."""
        declared = self.tensors(section)
        read = (name for name in names if not any(re.fullmatch(pattern, name) for pattern in declared.ignored))
        return (
            self.fused(section) if self.fused is not None and any(name.endswith(_FUSED) for name in read) else declared
        )
