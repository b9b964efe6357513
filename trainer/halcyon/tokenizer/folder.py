"""The tokenizer of a folder of Hugging Face: its vocabulary, and what the files beside it say about special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from halcyon.errors import BadConfiguration
from halcyon.tokenizer.definition import TokenizerDefinition

TOKENIZER_KEY = "tokenizer.json"
SENTENCE_PIECE_KEY = "tokenizer.model"
TOKENIZER_CONFIG_KEY = "tokenizer_config.json"
GENERATION_KEY = "generation_config.json"
SETTINGS_KEYS = (TOKENIZER_CONFIG_KEY, GENERATION_KEY)
"""The files beside a vocabulary that say something about its special tokens."""
_WITHOUT_NAMES = frozenset({None, "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"})
"""Classes of transformers that have no token of their own where tokenizer_config.json names none."""


def definition_of(files: Mapping[str, bytes]) -> TokenizerDefinition | None:
    """The definition of a folder's tokenizer; None: the folder has none that Halcyon reads.

    Args:
        files: The files by name. Only those that are named in this module are read.

    Raises:
        BadConfiguration: A file is damaged.
    """
    if TOKENIZER_KEY in files:
        return TokenizerDefinition("tokenizerJson", files[TOKENIZER_KEY], _options(files), answer_ends(files))
    if SENTENCE_PIECE_KEY in files:
        return TokenizerDefinition(
            "sentencePiece", files[SENTENCE_PIECE_KEY], _named(files) | _around(files), answer_ends(files)
        )
    return None


def answer_ends(files: Mapping[str, bytes]) -> tuple[int, ...]:
    """The ids that end what a model generates, by generation_config.json: one, or a list."""
    given = json_object(files, GENERATION_KEY).get("eos_token_id")
    listed = given if isinstance(given, list) else [given]
    return tuple(token for token in listed if isinstance(token, int) and not isinstance(token, bool) and token >= 0)


def json_object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file.

    Raises:
        BadConfiguration: It is no JSON object.
    """
    try:
        found = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError) as error:
        raise BadConfiguration(f"{name} is no JSON ({error}); copy the file again") from None
    if not isinstance(found, dict):
        raise BadConfiguration(f"{name} is no JSON object; copy the file again")
    return found


def spelling(value: object) -> str | None:
    """The spelling of a token in tokenizer_config.json: a text, or an object with its content."""
    content: object = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _options(files: Mapping[str, bytes]) -> dict[str, str]:
    """The options of a tokenizer.json by tokenizer_config.json; see `TokenizerDefinition.options`."""
    named = _named(files)
    is_plain = json_object(files, TOKENIZER_CONFIG_KEY).get("tokenizer_class") in _WITHOUT_NAMES
    return {"bos": ""} | named if TOKENIZER_CONFIG_KEY in files and is_plain else named


def _named(files: Mapping[str, bytes]) -> dict[str, str]:
    """The tokens that tokenizer_config.json names."""
    settings = json_object(files, TOKENIZER_CONFIG_KEY)
    found = {"bos": spelling(settings["bos_token"]) or ""} if "bos_token" in settings else {}
    eos = spelling(settings.get("eos_token"))
    return found if eos is None else found | {"eos": eos}


def _around(files: Mapping[str, bytes]) -> dict[str, str]:
    """Whether tokens stand around each text.

    As in transformers, it is not read for a tokenizer.json: its post-processor says it.
    """
    settings = json_object(files, TOKENIZER_CONFIG_KEY)
    keys = {"addBos": "add_bos_token", "addEos": "add_eos_token"}
    return {option: str(settings[key]).lower() for option, key in keys.items() if isinstance(settings.get(key), bool)}
