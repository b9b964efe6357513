"""Format for rows that are sounds with what is said in them.

A document is two numbers, the tokens of its prompt and of its whole text; then these tokens; then the samples of its
sound as unsigned numbers of 16 bits. So a cache keeps a sound as it keeps tokens, and hashes and checks it with them
(`halcyon.data.layout.beside` reads it).
"""

import numpy as np

from halcyon.data.formats.document import TokenizedDocument, bad_row, field_value
from halcyon.data.formats.text import TextFormatter
from halcyon.data.named_files import BadFile, content, shown
from halcyon.data.sound import MOST_BYTES, decoded
from halcyon.data.sources import Access, SourceRow
from halcyon.data.sources.text_check import not_utf8
from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.sources import SpeechFormatSpec, TextFormatSpec

SECONDS = 30.0
"""The longest sound: what Whisper hears at once."""
MOST_TOKENS = 2**16 - 1


class SpeechFormatter(TextFormatter):
    """Makes a document of each row whose text is not empty.

    Args:
        spec: Names of the fields.
        tokenizer: Makes the ids.
        where: The format's field in the run document; error messages begin with it.
        access: How files of sounds are read. None: no row is formatted.

    Raises:
        BadConfiguration: The tokenizer lacks the tokens of a language or of a task.
    """

    def __init__(self, spec: SpeechFormatSpec, tokenizer: Tokenizer, where: str, access: Access | None) -> None:
        super().__init__(TextFormatSpec(), tokenizer, where)
        self._spec, self._where, self._access = spec, f"{where}.speech", access
        self._before = np.array(prompt_of(tokenizer, spec.language, "transcribe", f"{self._where}.language"), np.int32)

    def _text(self, row: SourceRow) -> str:
        name = self._spec.text_field
        text = field_value(row, name, f"{self._where}.textField")
        if not isinstance(text, str) or not_utf8(text.encode(errors="surrogatepass")):
            fix = "name the field of the text"
            raise bad_row(row, f"{self._where}.textField", f"has a field {name!r} that is no text", fix)
        return text

    def _document(self, row: SourceRow, ids: np.ndarray, size_bytes: int, index: int) -> TokenizedDocument:
        if len(ids) > MOST_TOKENS:
            raise bad_row(
                row, self._where, f"has a text of {len(ids):,} tokens; the limit is {MOST_TOKENS:,}", "cut it"
            )
        where = f"{self._where}.audioField"
        value = field_value(row, self._spec.audio_field, where)
        try:
            samples = decoded(content(value, row.file, self._access, MOST_BYTES), SECONDS)
        except BadFile as bad:
            raise bad_row(row, where, f"names a sound{shown(value)} that {bad}", bad.fix) from None
        numbers = np.concatenate([[len(self._before), len(ids)], ids, samples.view(np.uint16)]).astype(np.int32)
        return TokenizedDocument(numbers, None, size_bytes, index)


def prompt_of(tokenizer: Tokenizer, language: str | None, task: str, where: str) -> tuple[int, ...]:
    """The tokens before a text: those of a language and a task, or what the tokenizer puts before each text.

    Raises:
        BadConfiguration: The tokenizer lacks one of them.
    """
    if language is None:
        return tuple(tokenizer.prefix) or (tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id,)
    names = ("startoftranscript", language, task, "notimestamps")
    known = tokenizer.special_tokens
    for name in names:
        if f"<|{name}|>" not in known:
            raise BadConfiguration(
                f"{where}: the tokenizer has no token <|{name}|>; take that of a multilingual Whisper, or "
                "leave language out"
            )
    return tuple(known[f"<|{name}|>"] for name in names)
