# ruff: noqa: RUF001, S106 - special tokens have typographic signs, and are no passwords
"""The tokenizers of the cases: each is a tokenizer.json and a tokenizer_config.json, made of the vocabularies in
vocabularies.json.

Each has the parts of a published kind: what splits and changes a text, what stands around it, and how its special
tokens take white space. It imports nothing that an environment with transformers lacks.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tests.parity.templates.cases import FOLDER
from tests.parity.templates.sentence_piece import sentence_piece_model

Json = dict[str, Any]

MARKS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>",
    "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>",
    "<start_of_turn>", "<end_of_turn>",
    "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>",

    "<｜tool▁output▁end｜>",
    "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
    "<|START_RESPONSE|>",
    "<|END_RESPONSE|>",
    "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>", "<|python_start|>", "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)  # fmt: skip
"""The special tokens of all templates."""
WORDS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Added tokens that are not special, as in Qwen 3."""

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_SPLIT = QWEN_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
R50K_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Kind:
    """A tokenizer."""

    document: Json
    """The tokenizer.json."""
    settings: Json
    """The tokenizer_config.json."""
    about: str
    """For the page."""
    native: bytes = field(default=b"", repr=False)
    """The same vocabulary in the form of the library that it is of: tiktoken's ranks, or a SentencePiece model.

    Empty: there is none.
    """

    @property
    def files(self) -> dict[str, bytes]:
        """The files of a folder."""
        documents = {
            "tokenizer.json": self.document,
            "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"} | self.settings,
        }
        return {name: json.dumps(document, ensure_ascii=False).encode() for name, document in documents.items()}


@cache
def _vocabularies() -> dict[str, Any]:
    return json.loads((FOLDER / "vocabularies.json").read_text(encoding="utf-8"))


def _added(content: str, token: int, **options: bool) -> Json:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": content, **plain, "special": True, **options}


def _document(model: Json, special: Sequence[str] = (), words: Sequence[str] = (), **parts: Any) -> Json:
    """A tokenizer.json whose special tokens have the ids after those of the model; those that the model has keep
    theirs.
    """
    vocabulary = (
        model["vocab"]
        if isinstance(model["vocab"], dict)
        else {piece: token for token, (piece, _) in enumerate(model["vocab"])}
    )
    following = iter(range(len(vocabulary), len(vocabulary) + len(special) + len(words)))
    added = [_added(name, vocabulary[name] if name in vocabulary else next(following)) for name in special]
    added += [_added(name, next(following), special=False) for name in words]
    none = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {
        "version": "1.0",
        **none,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        **parts,
        "model": model,
    }


def _bpe(name: str, first: Sequence[str] = (), **options: Any) -> Json:
    stored = _vocabularies()[name]
    vocabulary = {piece: token for token, piece in enumerate([*first, *stored["pieces"]])}
    none: Json = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
    }
    plain: Json = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return none | plain | options | {"vocab": vocabulary, "merges": stored["merges"]}


def _byte_level(*, prefix_space: bool = False, regex: bool = True, trim: bool = False) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": trim, "use_regex": regex}


def _sequence(kind: str, *parts: Json) -> Json:
    return {"type": "Sequence", kind: list(parts)}


def _split_by(pattern: str) -> Json:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return _sequence("pretokenizers", split, _byte_level(regex=False))


def _around(before: Mapping[str, int], after: Mapping[str, int]) -> Json:
    """A post-processor that puts tokens before and after a text."""

    def pieces(tokens: Iterable[str], sequence: int) -> list[Json]:
        return [{"SpecialToken": {"id": token, "type_id": sequence}} for token in tokens]

    texts = [[*pieces(before, at), {"Sequence": {"id": "AB"[at], "type_id": at}}, *pieces(after, at)] for at in (0, 1)]
    special = {token: {"id": token, "ids": [place], "tokens": [token]} for token, place in {**before, **after}.items()}
    return {"type": "TemplateProcessing", "single": texts[0], "pair": [*texts[0], *texts[1]], "special_tokens": special}


def _id(document: Json, content: str) -> int:
    return next(token["id"] for token in document["added_tokens"] if token["content"] == content)


def gpt2() -> Kind:
    post = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    document = _document(
        _bpe("byte_level"), MARKS, pre_tokenizer=_byte_level(), post_processor=post, decoder=_byte_level()
    )
    settings = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    return Kind(document, settings, "byte-level BPE as GPT-2, with one token for beginning and end")


def roberta() -> Kind:
    space = _byte_level(prefix_space=True, trim=True)
    document = _document(_bpe("byte_level"), ("<s>", "</s>", *MARKS), pre_tokenizer=space, decoder=_byte_level())
    ends = {"cls": ["<s>", _id(document, "<s>")], "sep": ["</s>", _id(document, "</s>")]}
    document["post_processor"] = {"type": "RobertaProcessing", **ends, "trim_offsets": True, "add_prefix_space": True}
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_prefix_space": True}
    return Kind(
        document, settings, "byte-level BPE with a space before each part, and offsets without spaces, as RoBERTa"
    )


def qwen() -> Kind:
    own = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    document = _document(
        _bpe("byte_level"),
        own,
        WORDS,
        normalizer={"type": "NFC"},
        pre_tokenizer=_split_by(QWEN_SPLIT),
        post_processor=_byte_level(regex=False),
        decoder=_byte_level(),
    )
    settings = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}
    return Kind(
        document, settings, "byte-level BPE with NFC, no beginning token, and `<think>` as an added word, as Qwen 3"
    )


def llama3() -> Kind:
    model = _bpe("byte_level", ignore_merges=True)
    document = _document(model, MARKS, pre_tokenizer=_split_by(LLAMA_SPLIT), decoder=_byte_level())
    begin = _around({"<|begin_of_text|>": _id(document, "<|begin_of_text|>")}, {})
    document["post_processor"] = _sequence("processors", _byte_level(prefix_space=True), begin)
    settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    return Kind(document, settings, "byte-level BPE with `ignore_merges` and a post-processor, as Llama 3")


def tiktoken() -> Kind:
    stored = _vocabularies()["byte_level"]
    rank = {piece: token for token, piece in enumerate(stored["pieces"])}
    document = _document(
        _bpe("byte_level", ignore_merges=True),
        ("<|endoftext|>",),
        pre_tokenizer=_split_by(R50K_SPLIT),
        decoder=_byte_level(),
    )
    document["model"]["vocab"]["<|endoftext|>"] = document["added_tokens"][0]["id"] = 50256
    letters = {chr(byte): byte for byte in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))}
    letters |= {chr(0x100 + place): byte for place, byte in enumerate(sorted(set(range(256)) - {*letters.values()}))}
    lines = (
        f"{base64.b64encode(bytes(letters[sign] for sign in piece)).decode()} {token}\n"
        for piece, token in rank.items()
    )
    ends = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|endoftext|>")
    return Kind(
        document,
        ends,
        "ranks of tiktoken, read as ranks and compared with their tokenizer.json",
        "".join(lines).encode(),
    )


def _sentence_piece(special: Sequence[str], **parts: Any) -> Json:
    """BPE on characters, which falls back to bytes."""
    first = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)))
    model = _bpe("pieces", first, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoder = _sequence("decoders", space, {"type": "ByteFallback"}, {"type": "Fuse"}, strip)
    return _document(model, ("<unk>", "<s>", "</s>", *special), **{"decoder": decoder, **parts})


_SENTENCE_PIECE = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def sentence_piece() -> Kind:
    """SentencePiece merges any two pieces that make a piece, so each way to split a piece is a merge."""
    split = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    document = _sentence_piece(MARKS, pre_tokenizer=split, post_processor=_around({"<s>": 1}, {}))
    names = [token["content"] for token in document["added_tokens"]]
    vocabulary: dict[str, int] = document["model"]["vocab"]
    vocabulary |= {token["content"]: token["id"] for token in document["added_tokens"]}
    stored = _vocabularies()["pieces"]["pieces"]
    pairs = [(piece[:at], piece[at:]) for piece in stored for at in range(1, len(piece))]
    document["model"]["merges"] = [
        f"{first} {last}" for first, last in pairs if first in vocabulary and last in vocabulary
    ]
    return Kind(
        document,
        _SENTENCE_PIECE,
        "a SentencePiece model, read as such and compared with its tokenizer.json",
        sentence_piece_model(vocabulary, stored, names),
    )


def _metaspace(scheme: str) -> Kind:
    split = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    document = _sentence_piece(MARKS, pre_tokenizer=split, post_processor=_around({"<s>": 1}, {}))
    return Kind(
        document,
        _SENTENCE_PIECE,
        f"Metaspace `{scheme}` and bytes for unknown characters, as converted SentencePiece models",
    )


def prepend() -> Kind:
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    document = _sentence_piece((), normalizer=_sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, space))
    return Kind(
        document,
        _SENTENCE_PIECE | {"add_bos_token": True},
        "the `Prepend` normalizer and no mark as a special token, as Llama 2",
    )


def phi() -> Kind:
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    document = _sentence_piece(MARKS, normalizer=_sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, space))
    for token in document["added_tokens"][3:]:
        token["rstrip"] = True
    settings = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "add_bos_token": False}
    return Kind(
        document, settings, "the `Prepend` normalizer, and special tokens that take white space after them, as Phi 3"
    )


def gemma() -> Kind:
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    decoder = _sequence("decoders", back, {"type": "ByteFallback"}, {"type": "Fuse"})
    document = _sentence_piece(
        MARKS, normalizer=space, pre_tokenizer=split, decoder=decoder, post_processor=_around({"<s>": 1}, {})
    )
    return Kind(document, _SENTENCE_PIECE, "a normalizer for spaces and nothing before a text, as Gemma")


def unigram() -> Kind:
    pieces = [*_vocabularies()["unigram"]["pieces"]]
    pieces[1:1] = [["</s>", 0.0], ["<pad>", 0.0]]
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    document = _document(
        {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False},
        ("<unk>", "</s>", "<pad>", *MARKS),
        normalizer=_sequence("normalizers", {"type": "NFKC"}, spaces),
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        post_processor=_around({}, {"</s>": 1}),
        decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    )
    settings = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return Kind(document, settings, "Unigram with NFKC and Metaspace, as T5")


def wordpiece() -> Kind:
    pieces = ("[PAD]", "[CLS]", "[SEP]", *_vocabularies()["words"]["pieces"])
    document = _document(
        {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: token for token, piece in enumerate(pieces)},
        },
        ("[PAD]", "[CLS]", "[SEP]", "[UNK]", *MARKS),
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=_around({"[CLS]": 1}, {"[SEP]": 2}),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )
    settings = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return Kind(document, settings, "WordPiece in small letters, in which white space has no token, as BERT")


def flags() -> Kind:
    document = _document(
        _bpe("byte_level"),
        ("<s>", "</s>", *MARKS),
        WORDS,
        normalizer={"type": "NFKC"},
        pre_tokenizer=_byte_level(),
        decoder=_byte_level(),
    )
    names = ("rstrip", "lstrip", "single_word", "normalized")
    for number, token in enumerate(document["added_tokens"]):
        token.update({name: bool(number % 16 >> bit & 1) for bit, name in enumerate(names)})
    return Kind(
        document,
        {"bos_token": "<s>", "eos_token": "</s>"},
        "special tokens with all mixtures of `lstrip`, `rstrip`, `single_word`, `normalized`",
    )


KINDS: Mapping[str, Callable[[], Kind]] = {
    "gpt2": gpt2,
    "roberta": roberta,
    "qwen": qwen,
    "llama3": llama3,
    "tiktoken": tiktoken,
    "sentence-piece": sentence_piece,
    "metaspace-always": lambda: _metaspace("always"),
    "metaspace-first": lambda: _metaspace("first"),
    "metaspace-never": lambda: _metaspace("never"),
    "prepend": prepend,
    "phi": phi,
    "gemma": gemma,
    "unigram": unigram,
    "wordpiece": wordpiece,
    "flags": flags,
}

SETTINGS: Mapping[str, tuple[str, Json]] = {
    "beginning wanted": ("gpt2", {"add_bos_token": True}),
    "beginning wanted, and there is none": ("qwen", {"add_bos_token": True}),
    "end wanted": ("gemma", {"add_eos_token": True}),
    "beginning and end wanted": ("metaspace-first", {"add_bos_token": True, "add_eos_token": True}),
    "no beginning wanted, against the post-processor": ("llama3", {"add_bos_token": False}),
    "no end wanted, against the post-processor": ("wordpiece", {"add_eos_token": False}),
    "end wanted, against the post-processor": ("unigram", {"add_eos_token": True}),
    "another beginning than that of the post-processor": ("llama3", {"bos_token": "<|endoftext|>"}),
    "another beginning than that of the post-processor, wanted": (
        "llama3",
        {"bos_token": "<|endoftext|>", "add_bos_token": True},
    ),
}
"""Other settings of a kind, which change what stands around a text."""
