"""Texts: each between the tokens that begin and end a document; empty ones are left out, bad ones are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halcyon.data.formats import build_formatter
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.sources import FormatSpec, TextFormatSpec
from tests.trainer.data.formats.standin import MarkedBytes, row

WHERE = "spec.data.sources[web].format"
LATIN = "would be replaced; convert the text, for example with iconv -f WINDOWS-1252 -t UTF-8"
TOKENIZER = MarkedBytes()


def text_formatter(field: str = "text") -> Any:
    return build_formatter(FormatSpec(text=TextFormatSpec(field=field)), TOKENIZER, where=WHERE)


def test_a_document_is_its_text_between_the_marks() -> None:
    documents = text_formatter()([row({"text": "Größe", "id": 1}), row(b"plain"), row({"text": "<|eos|>"})])
    assert [TOKENIZER.show(document.tokens) for document in documents] == [
        "[bos]Größe[eos]",
        "[bos]plain[eos]",
        "[bos]<|eos|>[eos]",
    ]
    assert [document.size_bytes for document in documents] == [7, 5, 7]
    assert all(document.weights is None and document.tokens.dtype == np.int32 for document in documents)


def test_empty_texts_make_no_documents() -> None:
    formatter, rows = text_formatter(), [row({"text": ""}), row({"text": "a"}), row(b""), row({"text": " "})]
    documents = formatter(rows)
    assert [(TOKENIZER.show(document.tokens), document.row) for document in documents] == [
        ("[bos]a[eos]", 1),
        ("[bos] [eos]", 3),
    ]
    assert formatter([]) == []


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"id": 3, "content": "a"}, "has no field 'text', only id, content; name the field, or fix the row"),
        ({}, "has no field 'text'; name the field, or fix the row"),
        ({"text": None}, "has a field 'text' that is null, not a text; name the field of the text"),
        ({"text": ["a"]}, "has a field 'text' that is a list, not a text; name the field of the text"),
        ({"text": b"ab\xff"}, f"is not UTF-8 at byte 2 (0xff): 1 of its 3 bytes {LATIN}"),
        ({"text": b"%PDF-1.7\n"}, "is a PDF, not text; convert it first, for example with pdftotext, or leave it out"),
        (
            {"text": "\x89PNG\r\n\x1a\n"},
            "is a picture, not text; convert it first, for example with tesseract, or leave it out",
        ),
        ({"text": "a\ud800"}, "has half a surrogate pair at character 1; fix the text"),
    ],
)
def test_a_bad_row_is_named(value: Any, sentence: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        text_formatter()([row({"text": "fine"}, 16), row(value), row({"text": "fine"}, 18)])
    assert str(refused.value) == f"{WHERE}.text.field: row 17 (counted from 0) of s3://bucket/a.jsonl {sentence}"
