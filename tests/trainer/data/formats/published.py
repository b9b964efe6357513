"""The tokenizers and the templates of `tests.parity.templates`, as Halcyon reads them."""

from __future__ import annotations

from functools import cache
from typing import Any

from halcyon.data.formats import build_formatter
from halcyon.tokenizer import Tokenizer, TokenizerDefinition, load
from halcyon.tokenizer.resolve import definition_of
from halcyon_api.spec.sources import ChatFormatSpec, FormatSpec
from tests.parity.templates.cases import DATE
from tests.parity.templates.kinds import KINDS, Kind


def loaded(kind: Kind) -> Tokenizer:
    """The tokenizer of the folder of a kind."""
    definition = definition_of(kind.files)
    assert definition is not None
    return load(definition)


@cache
def tokenizer_of(name: str) -> Tokenizer:
    """The tokenizer of a kind; where the kind has a file of its own library, the tokenizer of that file."""
    kind = KINDS[name]()
    if name == "tiktoken":
        return load(TokenizerDefinition("tiktoken", kind.native, {"encoding": "r50k_base"}))
    return load(TokenizerDefinition("sentencePiece", kind.native)) if name == "sentence-piece" else loaded(kind)


def formatter_of(tokenizer: Tokenizer, template: str) -> Any:
    """The formatter of conversations with a template."""
    spec = ChatFormatSpec.model_validate({"template": template, "toolsField": "tools", "date": DATE})
    return build_formatter(FormatSpec(chat=spec), tokenizer, where="spec.data.sources[talks].format")
