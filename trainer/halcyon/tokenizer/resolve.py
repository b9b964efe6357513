"""Makes the definition of ``spec.tokenizer``. Only this module fetches a tokenizer's file."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from halcyon.host.errors import BadConfiguration, DataUnreachable
from halcyon.tokenizer import side_files
from halcyon.tokenizer.definition import BYTE, TokenizerDefinition
from halcyon.tokenizer.tiktoken_encodings import ENCODINGS
from halcyon_api.spec.tokenizer import TiktokenSpec, TokenizerSpec

TOKENIZER_KEY = "tokenizer.json"
SENTENCE_PIECE_KEY = "tokenizer.model"
_WITHOUT_NAMES = frozenset({None, "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"})
"""Classes of transformers that have no token of their own where tokenizer_config.json names none."""

Fetch = Callable[[str], bytes]
"""Reads a whole file by its address; raises ``OSError`` for a permanent error and `DataUnreachable` for a temporary
one.
"""


def definition_of(files: Mapping[str, bytes]) -> TokenizerDefinition | None:
    """The definition of a folder's tokenizer; None: the folder has none that Halcyon reads.

    Args:
        files: The files by name. Only those that are named in this module are read.

    Raises:
        BadConfiguration: A file is damaged.
    """
    if TOKENIZER_KEY in files:
        content = side_files.with_added(files[TOKENIZER_KEY], side_files.added_tokens(files))
        return TokenizerDefinition("tokenizerJson", content, _options(files), side_files.answer_ends(files))
    if SENTENCE_PIECE_KEY in files:
        options = _named(files) | _around(files)
        if added := {token["content"]: token["id"] for token in side_files.added_tokens(files)}:
            options["added"] = json.dumps(added)
        return TokenizerDefinition("sentencePiece", files[SENTENCE_PIECE_KEY], options, side_files.answer_ends(files))
    return None


def _options(files: Mapping[str, bytes]) -> dict[str, str]:
    """The options of a tokenizer.json by tokenizer_config.json; see `TokenizerDefinition.options`."""
    named = _named(files)
    is_plain = side_files.json_object(files, side_files.TOKENIZER_CONFIG_KEY).get("tokenizer_class") in _WITHOUT_NAMES
    return {"bos": ""} | named if side_files.TOKENIZER_CONFIG_KEY in files and is_plain else named


def _named(files: Mapping[str, bytes]) -> dict[str, str]:
    """The tokens that the files name."""
    settings = side_files.settings_of(files)
    named = {"bos": side_files.spelling(settings["bos_token"]) or ""} if "bos_token" in settings else {}
    others = {name: side_files.spelling(settings.get(f"{name}_token")) for name in ("eos", "pad")}
    return named | {name: text for name, text in others.items() if text is not None}


def _around(files: Mapping[str, bytes]) -> dict[str, str]:
    """Whether tokens stand around each text.

    As in transformers, it is not read for a tokenizer.json: its post-processor says it.
    """
    settings = side_files.json_object(files, side_files.TOKENIZER_CONFIG_KEY)
    keys = {"addBos": "add_bos_token", "addEos": "add_eos_token"}
    return {option: str(settings[key]).lower() for option, key in keys.items() if isinstance(settings.get(key), bool)}


def resolve(spec: TokenizerSpec, fetch: Fetch) -> TokenizerDefinition:
    """The definition of the tokenizer that a run document names.

    Args:
        spec: Any kind except ``bpe``, whose definition is the result of its training.
        fetch: Reads a file.

    Raises:
        BadConfiguration: The file cannot be read, or does not have the known hash.
        DataUnreachable: Its store does not answer, or denies access.
    """
    where = f"spec.tokenizer.{spec.kind}"
    if spec.byte is not None:
        return BYTE
    if (json_spec := spec.tokenizer_json) is not None:
        path = json_spec.path
        uri = path if path.endswith(".json") else f"{path.rstrip('/')}/{TOKENIZER_KEY}"
        definition = _with_settings(uri, TOKENIZER_KEY, where, fetch)
        named = {"beginning": json_spec.beginning, "end": json_spec.end}
        given = {name: text for name, text in named.items() if text is not None}
        return replace(definition, options={**definition.options, **given})
    if spec.tiktoken is not None:
        return _tiktoken(spec.tiktoken, where, fetch)
    if spec.sentence_piece is not None:
        return _with_settings(spec.sentence_piece.path, SENTENCE_PIECE_KEY, where, fetch)
    raise TypeError(f"a tokenizer of kind {spec.kind} has to be trained, it cannot be read")


def _with_settings(uri: str, key: str, where: str, fetch: Fetch) -> TokenizerDefinition:
    definition = definition_of({key: _read(uri, where, fetch)} | _beside(uri, where, fetch))
    assert definition is not None  # noqa: S101 - the files have a vocabulary
    return definition


def _beside(uri: str, where: str, fetch: Fetch) -> dict[str, bytes]:
    """The files beside a vocabulary that say what its special tokens mean, as far as they are there."""
    files: dict[str, bytes] = {}
    folder, slash, _ = uri.rpartition("/")
    for name in side_files.SETTINGS_KEYS:
        try:
            files[name] = fetch(f"{folder}{slash}{name}")
        except OSError:  # it is not there, or may not be read
            continue
        except DataUnreachable as error:
            raise DataUnreachable(f"{where}.path: {error}") from None
    return files


def _tiktoken(spec: TiktokenSpec, where: str, fetch: Fetch) -> TokenizerDefinition:
    encoding = ENCODINGS[spec.encoding]
    if spec.path is not None:
        return _encoding(spec.encoding, _read(spec.path, where, fetch))
    kept = cached_encoding(spec.encoding)
    if kept is not None:
        return kept
    content = _read(encoding.url, where, fetch)
    if hashlib.sha256(content).hexdigest() != encoding.sha256:
        raise BadConfiguration(
            f"{where}.path: the download from {encoding.url} is not the known file; give the path of a copy"
        )
    return _encoding(spec.encoding, content)


def cached_encoding(name: str) -> TokenizerDefinition | None:
    """One of tiktoken's encodings from tiktoken's cache on this machine; None: its ranks are not there, or have another
    hash.
    """
    encoding = ENCODINGS[name]
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = Path(named) if named else Path(tempfile.gettempdir()) / "data-gym-cache"  # as in tiktoken
    path = folder / hashlib.sha1(encoding.url.encode(), usedforsecurity=False).hexdigest()
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return _encoding(name, content) if hashlib.sha256(content).hexdigest() == encoding.sha256 else None


def _encoding(name: str, content: bytes) -> TokenizerDefinition:
    return TokenizerDefinition("tiktoken", content, {"encoding": "r50k_base" if name == "gpt2" else name})


def _read(uri: str, where: str, fetch: Fetch) -> bytes:
    try:
        return fetch(uri)
    except DataUnreachable as error:
        raise DataUnreachable(f"{where}.path: {error}") from None
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise BadConfiguration(
            f"{where}.path: {uri} cannot be read ({reason}); give a file that this run can read"
        ) from None
