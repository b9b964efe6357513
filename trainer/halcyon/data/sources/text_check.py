"""Finds content that is no text in UTF-8, and says how to convert it.

A PDF, an archive or a picture would become tokens of compressed bytes, and text of another encoding would lose letters:
both train without an error.
"""

import codecs
import re
from typing import NamedTuple

from halcyon_api.counting import counted

_HEAD_BYTES = 8192
_CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")
"""Control characters that no text has: not BEL, BS, TAB, LF, VT, FF, CR and ESC."""
_NO_LETTER = re.compile("[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ufffd]")
"""The same in a decoded text, with what bytes above ASCII become."""
_NO_LETTER_PARTS = 20
"""One such character in this number is too much for a text."""
_ESCAPED = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of a byte that is not UTF-8."""
_ABOVE_ASCII = re.compile("[^\x00-\x7f]")
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_DOCUMENTS = {b"%PDF-": ("a PDF", "pdftotext"), b"{\\rtf": ("RTF", "pandoc"), b"%!PS": ("PostScript", "ps2ascii")}
"""Beginnings of documents that may look like text."""
_BINARY = {
    b"PK\x03\x04": ("a ZIP archive, as .docx, .odt and .epub are,", "pandoc or unzip"),
    b"\xd0\xcf\x11\xe0": ("an old Office document", "soffice --convert-to txt"),
    b"\x1f\x8b": ("compressed", "gunzip"),
    b"\x28\xb5\x2f\xfd": ("compressed", "unzstd"),
    b"BZh": ("compressed", "bunzip2"),
    b"\xfd7zXZ": ("compressed", "unxz"),
    b"\x89PNG": ("a picture", "tesseract"),
    b"\xff\xd8\xff": ("a picture", "tesseract"),
    b"GIF8": ("a picture", "tesseract"),
    b"PAR1": ("a Parquet file", "a source of kind parquet"),
}


class NotText(NamedTuple):
    """What a content is, and the way out."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


def no_text(content: bytes | str) -> NotText | None:
    """What a content is if it is no text. None: it is text.

    Text of another encoding is text; see `not_utf8`.

    Args:
        content: The beginning of a file, or a field of a row.
    """
    if isinstance(content, str):
        head = content[:_HEAD_BYTES].encode("latin-1", "replace")
        odd = not content.isascii() or not content.isprintable()
        binary = odd and len(_NO_LETTER.findall(content[:_HEAD_BYTES])) * _NO_LETTER_PARTS > len(head)
    else:
        head = content[:_HEAD_BYTES]
        binary = _is_binary(head)
    start = head.lstrip()
    for signature, (name, tool) in (_DOCUMENTS | _BINARY if binary else _DOCUMENTS).items():
        if start.startswith(signature):
            return NotText(f"is {name}, not text", f"convert it first, for example with {tool}, or leave it out")
    return NotText("is binary, not text", "convert it first, or leave it out") if binary else None


def _is_binary(head: bytes) -> bool:
    """Whether a beginning has a NUL, or is not UTF-8 and has control characters."""
    if has_mark(head):
        return False
    if b"\0" in head:
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return _CONTROL.search(head) is not None
    return False


def has_mark(head: bytes) -> bool:
    """Whether a beginning has the mark of UTF-16 or UTF-32."""
    return head.startswith(tuple(mark for mark, _ in _MARKS))


def not_utf8(content: bytes) -> NotText | None:
    """What is wrong with bytes that are not UTF-8. None: they are UTF-8."""
    try:
        content.decode()
        return None
    except UnicodeDecodeError as error:
        place = error.start
    if (mark := next((name for sign, name in _MARKS if content.startswith(sign)), None)) is not None:
        return NotText(f"is {mark}, not UTF-8", _convert(mark))
    text = content.decode(errors="surrogateescape")
    bad = len(_ESCAPED.findall(text))
    # Bytes among valid letters are damage, and no other encoding.
    has_letters = len(_ABOVE_ASCII.findall(text)) > bad
    fix = "remove them, for example with iconv -f UTF-8 -t UTF-8 -c" if has_letters else _convert("WINDOWS-1252")
    first = f"at byte {place} (0x{content[place]:02x})"
    return NotText(f"is not UTF-8 {first}: {bad:,} of its {counted(len(content), 'byte')} would be replaced", fix)


def _convert(encoding: str) -> str:
    return f"convert the text, for example with iconv -f {encoding} -t UTF-8"
