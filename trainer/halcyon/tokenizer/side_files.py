"""The files beside a vocabulary: which tokens it has beyond its own, and what its special tokens mean.

``tokenizer_config.json`` counts first. ``special_tokens_map.json`` and ``added_tokens.json``, which older versions of
transformers wrote, count for what it does not say. A token that one of them names and the vocabulary lacks is added as
the library ``tokenizers`` adds it: with the next free id.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from halcyon.host.errors import BadConfiguration
from halcyon.host.limits.sizes import MOST_IDS

TOKENIZER_CONFIG_KEY = "tokenizer_config.json"
GENERATION_KEY = "generation_config.json"
CONFIG_KEY = "config.json"
_MAP_KEY, _ADDED_KEY = "special_tokens_map.json", "added_tokens.json"
SETTINGS_KEYS = (TOKENIZER_CONFIG_KEY, GENERATION_KEY, CONFIG_KEY, _MAP_KEY, _ADDED_KEY)
"""The files beside a vocabulary that say something about its special tokens."""
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_MORE = ("additional_special_tokens", "extra_special_tokens")
"""Entries with further special tokens: of transformers before and since version 5."""


def json_object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file.

    Raises:
        BadConfiguration: It is no JSON object.
    """
    try:
        value = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError) as error:
        raise BadConfiguration(f"{name} is no JSON ({error}); copy the file again") from None
    if not isinstance(value, dict):
        raise BadConfiguration(f"{name} is no JSON object; copy the file again")
    return value


def settings_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The entries of tokenizer_config.json, and those of special_tokens_map.json that it lacks."""
    return json_object(files, _MAP_KEY) | json_object(files, TOKENIZER_CONFIG_KEY)


def spelling(value: object) -> str | None:
    """The spelling of a token in these files: a text, or an object with its content."""
    content: object = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def answer_ends(files: Mapping[str, bytes]) -> tuple[int, ...]:
    """The ids that end what a model generates, by generation_config.json, else by config.json: one, or a list."""
    named = (json_object(files, name).get("eos_token_id") for name in (GENERATION_KEY, CONFIG_KEY))
    given = next((one for one in named if one is not None), None)
    listed = given if isinstance(given, list) else [given]
    return tuple(token for token in listed if isinstance(token, int) and not isinstance(token, bool) and token >= 0)


def added_tokens(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """The tokens that the files name, each once, as a tokenizer.json writes them; the id is None where the files have
    none.

    Raises:
        BadConfiguration: A file is damaged, or an id is out of its range.
    """
    config, older = json_object(files, TOKENIZER_CONFIG_KEY), json_object(files, _MAP_KEY)
    decoder = config.get("added_tokens_decoder")
    pairs: list[tuple[Any, Any]] = list(decoder.items()) if isinstance(decoder, dict) else []
    pairs += [(number, content) for content, number in json_object(files, _ADDED_KEY).items()]
    for number, token in pairs:
        if not str(number).isdecimal() or int(number) >= MOST_IDS:
            raise BadConfiguration(
                f"the token {spelling(token)!r} has the id {number!r}, which is none of 0 to {MOST_IDS - 1}; copy "
                f"{TOKENIZER_CONFIG_KEY} and {_ADDED_KEY} again"
            )
    pairs.sort(key=lambda pair: int(pair[0]))
    for further in (source.get(name) for source in (config, older) for name in _MORE):
        values = further.values() if isinstance(further, dict) else further if isinstance(further, list) else ()
        pairs += [(None, value) for value in values]
    found: dict[str, dict[str, Any]] = {}
    for number, token in pairs:
        if (content := spelling(token)) and content not in found:
            facts: dict[str, Any] = token if isinstance(token, dict) else {}
            flags = {name: facts.get(name) is True for name in _FLAGS}
            place = None if number is None else int(number)
            found[content] = {"id": place, "content": content, **flags, "special": facts.get("special") is not False}
    return list(found.values())


def with_added(content: bytes, tokens: Sequence[Mapping[str, Any]]) -> bytes:
    """A tokenizer.json with the tokens that it lacks; the same bytes if it lacks none.

    Args:
        content: The tokenizer.json. What is no such file is returned as it is.
        tokens: The tokens that the files beside it name.
    """
    try:
        document = json.loads(content)
        added, vocabulary = list(document.get("added_tokens") or []), document["model"]["vocab"]
        known = {token["content"]: token["id"] for token in added}
        ids = vocabulary if isinstance(vocabulary, dict) else {piece[0]: at for at, piece in enumerate(vocabulary)}
        free = max([len(ids), *(number + 1 for number in known.values())])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return content
    missing = [token for token in tokens if token["content"] not in known]
    for token in missing:
        place = ids.get(token["content"], free)
        free += place == free
        added.append({**token, "id": place})
    return json.dumps(document | {"added_tokens": added}, ensure_ascii=False).encode() if missing else content
