"""The small files of a model's folder beside its weights and its config.json: tokenizer, chat template, settings of generation.

They travel with the weights: an import copies them into the checkpoint root, below ``huggingface/``, and an export copies them from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from halcyon.errors import BadConfiguration
from halcyon.storage.store import Store
from halcyon.tokenizer import Tokenizer, TokenizerDefinition
from halcyon_api.checkpoint_documents import HUGGING_FACE_PREFIX

CONFIG_KEY = "config.json"
TOKENIZER_KEY = "tokenizer.json"
TOKENIZER_CONFIG_KEY = "tokenizer_config.json"
GENERATION_KEY = "generation_config.json"
SENTENCE_PIECE_KEY = "tokenizer.model"
CHAT_TEMPLATE_KEY = "chat_template.jinja"
_OF_TOKENIZER = (
    TOKENIZER_KEY,
    TOKENIZER_CONFIG_KEY,
    SENTENCE_PIECE_KEY,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
COMPANIONS = (*_OF_TOKENIZER, CHAT_TEMPLATE_KEY, "chat_template.json", GENERATION_KEY)
_TOKEN_IDS = frozenset({"bos_token_id", "eos_token_id", "pad_token_id"})


def read_companions(store: Store, prefix: str = "") -> dict[str, bytes]:
    """The files below a prefix of a store, by name: those of `COMPANIONS`, and the config.json if `prefix` is not empty."""
    names = (*COMPANIONS, CONFIG_KEY) if prefix else COMPANIONS
    found = {name: store.read(f"{prefix}{name}").data for name in names}
    return {name: data for name, data in found.items() if data is not None}


def keep_companions(store: Store, files: Mapping[str, bytes]) -> None:
    """Write the files into a checkpoint root."""
    for name, data in files.items():
        store.write(f"{HUGGING_FACE_PREFIX}{name}", data)


def tokenizer_of(files: Mapping[str, bytes]) -> TokenizerDefinition | None:
    """The definition of a folder's tokenizer; None: it has none that Halcyon reads.

    The tokens that begin and end a document are those of tokenizer_config.json.
    """
    if TOKENIZER_KEY in files:
        settings = _object(files.get(TOKENIZER_CONFIG_KEY, b"{}"), TOKENIZER_CONFIG_KEY)
        named = {"beginning": _token(settings.get("bos_token")), "end": _token(settings.get("eos_token"))}
        return TokenizerDefinition("tokenizerJson", files[TOKENIZER_KEY], {name: text for name, text in named.items() if text is not None})
    if SENTENCE_PIECE_KEY in files:
        return TokenizerDefinition("sentencePiece", files[SENTENCE_PIECE_KEY])
    return None


def files_for(files: Mapping[str, bytes], definition: TokenizerDefinition | None) -> Mapping[str, bytes]:
    """The files that fit to the tokenizer of a run. For another tokenizer than that of the files: those without its files and its ids."""
    if definition is None or _has_tokenizer(files, definition):
        return files
    kept = {name: data for name, data in files.items() if name not in _OF_TOKENIZER}
    for name in kept.keys() & {CONFIG_KEY, GENERATION_KEY}:
        kept[name] = encode({key: value for key, value in _object(kept[name], name).items() if key not in _TOKEN_IDS})
    return kept


def _has_tokenizer(files: Mapping[str, bytes], definition: TokenizerDefinition) -> bool:
    """Whether a tokenizer is that of the files, as far as they can be compared: a vocab.json is not."""
    known = [files[name] for name in (TOKENIZER_KEY, SENTENCE_PIECE_KEY) if name in files]
    return definition.content in known if known else "vocab.json" in files and definition.kind == "tokenizerJson"


def token_ids(files: Mapping[str, bytes], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The ids of special tokens for config.json: those of the model's own config.json, else those of the tokenizer."""
    original = _object(files.get(CONFIG_KEY, b"{}"), CONFIG_KEY)
    found = {name: original[name] for name in sorted(_TOKEN_IDS) if original.get(name) is not None}
    if found or tokenizer is None:
        return found
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}


def exported_companions(
    files: Mapping[str, bytes], definition: TokenizerDefinition | None, tokenizer: Tokenizer | None, positions: int
) -> dict[str, bytes]:
    """The files to write beside the weights.

    Args:
        files: The files of the folder that the weights came from; empty for a model that Halcyon trained from the beginning.
        definition: The tokenizer of the run.
        tokenizer: The same, loaded.
        positions: Longest sequence of the model, in tokens.
    """
    kept = files_for(files, definition)
    written = {name: data for name, data in kept.items() if name != CONFIG_KEY}
    if definition is not None and definition.kind == "tokenizerJson" and files.get(TOKENIZER_KEY) != definition.content:
        written[TOKENIZER_KEY] = definition.content
    if definition is not None and definition.kind == "sentencePiece":
        written.setdefault(SENTENCE_PIECE_KEY, definition.content)
    if tokenizer is not None and TOKENIZER_KEY in written and TOKENIZER_CONFIG_KEY not in written:
        spelled = {index: text for text, index in tokenizer.special_tokens.items()}
        ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
        written[TOKENIZER_CONFIG_KEY] = encode(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False,
                "model_max_length": positions,
                **{name: spelled[index] for name, index in ids.items() if index in spelled},
            }
        )
    if GENERATION_KEY not in written or kept is not files:
        settings = _object(written.get(GENERATION_KEY, b'{"_from_model_config": true}'), GENERATION_KEY)
        written[GENERATION_KEY] = encode({**settings, **token_ids(kept, tokenizer)})
    return written


def encode(document: Mapping[str, Any]) -> bytes:
    """A document as the text of a file."""
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode()


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadConfiguration(f"{name} is no JSON ({error}); copy the file again") from None
    if not isinstance(found, dict):
        raise BadConfiguration(f"{name} is no JSON object; copy the file again")
    return found


def _token(value: object) -> str | None:
    """The spelling of a token in tokenizer_config.json: a text, or an object with its content."""
    content: object = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None
