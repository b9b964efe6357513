"""Formats: rows are texts, conversations, pairs of conversations, prompts, queries with texts, sounds with texts, or
token ids. A format turns rows into documents of token ids.

Special tokens come only from this package and from templates, never from the text of a row: text that spells a special
token stays text.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from halcyon.data.formats.chat import ChatFormatter, PreferenceFormatter
from halcyon.data.formats.document import Formatter
from halcyon.data.formats.prebuilt import PrebuiltFormatter
from halcyon.data.formats.prompt import PromptFormatter
from halcyon.data.formats.speech import SpeechFormatter
from halcyon.data.formats.text import PairFormatter, TextFormatter
from halcyon.data.forms.form import Form
from halcyon.data.sources import Access
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.model_shape import ImageShape
from halcyon_api.spec.sources import FormatSpec

_FORMATTERS: Mapping[str, Callable[..., Formatter]] = {
    "text": TextFormatter,
    "prebuilt": PrebuiltFormatter,
    "pair": PairFormatter,
    "preference": PreferenceFormatter,
    "prompt": PromptFormatter,
}


def build_formatter(
    spec: FormatSpec,
    tokenizer: Tokenizer,
    *,
    where: str,
    form: Form | None = None,
    access: Access | None = None,
    sight: ImageShape | None = None,
) -> Formatter:
    """The formatter of a source.

    Args:
        spec: The format.
        tokenizer: Makes the ids.
        where: The format's field in the run document, such as ``spec.data.sources[web].format``; error messages begin
            with it.
        form: The form of the source's rows, if it was recognised before. Default: that of the first row that is
            formatted.
        access: How files that rows name are read. None: no row is formatted that names one.
        sight: The images that the model sees; None: conversations have none.

    Raises:
        BadConfiguration: The template is invalid, or does not fit this tokenizer.
    """
    if spec.speech is not None:
        return SpeechFormatter(spec.speech, tokenizer, where, access)
    if spec.chat is not None:
        return ChatFormatter(spec.chat, tokenizer, where, form, sight, access)
    return _FORMATTERS[spec.kind](getattr(spec, spec.kind), tokenizer, where, form)


def begin_id(spec: FormatSpec, tokenizer: Tokenizer) -> int | None:
    """The token that begins each document of a format and stands nowhere else in it; None: there is none.

    A template prints what it likes: no token, or the begin token before each turn.
    """
    before = tokenizer.prefix
    return (
        before[0]
        if spec.conversation is None and len(before) == 1 and before[0] not in (tokenizer.eos_id, *tokenizer.suffix)
        else None
    )


def weight_type(spec: FormatSpec) -> Literal["uint8", "float32"] | None:
    """The stored type of the loss weights of a format's tokens; None: all weights are 1."""
    if spec.conversation is not None or (spec.text is not None and spec.text.label_field is not None):
        return "uint8"  # 0 or 1
    return "float32" if spec.prebuilt is not None and spec.prebuilt.weights_field is not None else None
