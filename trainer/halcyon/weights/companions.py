"""The small files of a model's folder beside its weights and its config.json: tokenizer, chat template, settings of
generation, and of the programs that prepare images.

They travel with the weights: an import copies them into the checkpoint root, below ``huggingface/``, and an export
copies them from there.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from halcyon.data.formats.template import ChatTemplate, TurnEnd, day
from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.tokenizer import Tokenizer, TokenizerDefinition, named_specials
from halcyon.tokenizer import load as load_tokenizer
from halcyon.tokenizer.resolve import SENTENCE_PIECE_KEY, TOKENIZER_KEY, definition_of
from halcyon.tokenizer.side_files import CONFIG_KEY, GENERATION_KEY, TOKENIZER_CONFIG_KEY, answer_ends, json_object
from halcyon.weights.vectors import MODULES_KEY, POOLING_KEY, PROMPTS_KEY
from halcyon_api.checkpoint_documents import HUGGING_FACE_PREFIX

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
COMPANIONS = (
    *_OF_TOKENIZER,
    CHAT_TEMPLATE_KEY,
    "chat_template.json",
    GENERATION_KEY,
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    MODULES_KEY,
    POOLING_KEY,
    PROMPTS_KEY,
)
TEMPLATE_KEYS = (CHAT_TEMPLATE_KEY, "chat_template.json", TOKENIZER_CONFIG_KEY)
"""Files that may have the chat template, the first one that has it counts."""
BASE = "_name_or_path"
"""Where the kept config.json names the folder that the weights came from, as transformers does."""
_TOKEN_IDS = frozenset({"bos_token_id", "eos_token_id", "pad_token_id"})


def read_companions(store: Store, prefix: str = "") -> dict[str, bytes]:
    """The files below a prefix of a store, by name: those of `COMPANIONS`, and the config.json."""
    found = {name: store.read(f"{prefix}{name}").data for name in (*COMPANIONS, CONFIG_KEY)}
    return {name: data for name, data in found.items() if data is not None}


def keep_companions(store: Store, files: Mapping[str, bytes]) -> None:
    """Write the files into a checkpoint root."""
    for name, data in files.items():
        store.write(f"{HUGGING_FACE_PREFIX}{name}", data)


def with_base(files: Mapping[str, bytes], base: str | None) -> Mapping[str, bytes]:
    """The files with the name of the model that has the same weights; None: no model in files has them."""
    if CONFIG_KEY not in files:
        return files
    return {**files, CONFIG_KEY: encode(json_object(files, CONFIG_KEY) | {BASE: base})}


def template_of(files: Mapping[str, bytes]) -> str | None:
    """The chat template among the files of a model: of ``chat_template.jinja``, else of the JSON files."""
    if CHAT_TEMPLATE_KEY in files:
        return files[CHAT_TEMPLATE_KEY].decode("utf-8-sig", errors="replace")
    for name in TEMPLATE_KEYS[1:]:
        try:
            document: Any = json.loads(files.get(name, b"{}"))
        except ValueError:
            continue
        found: Any = document.get("chat_template") if isinstance(document, dict) else None
        if isinstance(found, list):  # several by name
            named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
            found, with_tools = named.get("default", next(iter(named.values()), None)), named.get("tool_use")
            if isinstance(found, str) and isinstance(with_tools, str):  # transformers takes the second where tools are
                found, with_tools = (text.removesuffix("\n") for text in (found, with_tools))
                found = f"{{% if tools %}}{with_tools}{{% else %}}{found}{{% endif %}}"
        if isinstance(found, str):
            return found
    return None


def files_for(
    files: Mapping[str, bytes], definition: TokenizerDefinition | None, tokenizer: Tokenizer | None
) -> Mapping[str, bytes]:
    """The files that fit to the tokenizer of a run.

    For another tokenizer than that of the files: those without its files, and with the ids of the run's tokenizer. An
    end of answers is kept where the run's tokenizer has a special token with its spelling.

    Args:
        files: The files of the folder that the weights came from.
        definition: The tokenizer of the run.
        tokenizer: The same, loaded.
    """
    base = definition_of(files)
    if definition is None or tokenizer is None or _is_same(files, base, definition):
        return files
    kept = {name: data for name, data in files.items() if name not in _OF_TOKENIZER}
    spelled: dict[int, str] = {}
    if base is not None:
        with contextlib.suppress(BadConfiguration):  # files that Halcyon does not read name no end
            spelled = {token: text for text, token in load_tokenizer(base).special_tokens.items()}
    named = (tokenizer.special_tokens.get(spelled.get(token, "")) for token in answer_ends(files))
    ends = list(dict.fromkeys((tokenizer.eos_id, *(token for token in named if token is not None))))
    ids = {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id, "eos_token_id": one_or_all(ends)}
    for name in kept.keys() & {CONFIG_KEY, GENERATION_KEY}:
        others = {key: value for key, value in json_object(kept, name).items() if key not in _TOKEN_IDS}
        kept[name] = encode(others | {key: value for key, value in ids.items() if value is not None})
    return kept


def _is_same(files: Mapping[str, bytes], base: TokenizerDefinition | None, definition: TokenizerDefinition) -> bool:
    """Whether a tokenizer is that of the files, as far as they can be compared: a vocab.json is not."""
    if base is None:
        return "vocab.json" in files and definition.kind == "tokenizerJson"
    return definition.content in (base.content, files.get(SENTENCE_PIECE_KEY))


def one_or_all(ends: Sequence[int]) -> int | list[int]:
    """Ids as these files have them: a list only of several."""
    return ends[0] if len(ends) == 1 else list(ends)


def token_ids(files: Mapping[str, bytes], tokenizer: Tokenizer | None, end: TurnEnd | None) -> dict[str, Any]:
    """The ids of special tokens for config.json: those of the model's own config.json, else those of the tokenizer.

    Args:
        files: The files of the folder that the weights came from, as far as they fit to the tokenizer.
        tokenizer: The tokenizer of the run.
        end: The end that the export names instead, see `new_end`. None: there is none.
    """
    original = json_object(files, CONFIG_KEY)
    found = {name: original[name] for name in sorted(_TOKEN_IDS) if original.get(name) is not None}
    if not found and tokenizer is not None:
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
        found = {name: token for name, token in ids.items() if token is not None}
    if end is None:
        return found
    listed = found.get("eos_token_id")
    return found | {"eos_token_id": list(dict.fromkeys((end.id, *listed))) if isinstance(listed, list) else end.id}


def new_end(files: Mapping[str, bytes], tokenizer: Tokenizer | None, template: str | None) -> TurnEnd | None:
    """The end of an answer that a model has learnt from conversations; None: the files name it already, or there is
    none.

    Programs that read no generation_config.json, such as the converter of llama.cpp, know one end: the ``eos_token``.
    Chat models name the end of a turn there. A template that prints ``eos_token``, and a tokenizer that puts it after
    texts, need the end of a text there.

    Args:
        files: The files of the folder that the weights came from, as far as they fit to the tokenizer.
        tokenizer: The tokenizer of the run.
        template: The chat template of the conversations. None: Halcyon cannot know it.
    """
    if template is None or tokenizer is None or tokenizer.suffix:
        return None
    chat = ChatTemplate(template, tokenizer, "the chat template", day(None))
    turn = chat.turn_end()
    known = turn is None or chat.uses("eos_token") or turn.id in (*answer_ends(files), tokenizer.eos_id)
    return None if known else turn


def exported_companions(
    files: Mapping[str, bytes],
    definition: TokenizerDefinition | None,
    tokenizer: Tokenizer | None,
    positions: int,
    template: str | None,
    end: TurnEnd | None = None,
) -> dict[str, bytes]:
    """The files to write beside the weights.

    Args:
        files: The files of the folder that the weights came from; empty for a model that Halcyon trained from the
            beginning.
        definition: The tokenizer of the run.
        tokenizer: The same, loaded.
        positions: Longest sequence of the model, in tokens.
        template: The chat template of the model, which other programs will use. None: it has none.
        end: The end of an answer to name instead of that of a text, see `new_end`. None: there is none.
    """
    kept = files_for(files, definition, tokenizer)
    written = {name: data for name, data in kept.items() if name != CONFIG_KEY}
    if template is not None and template != template_of(written):
        written[CHAT_TEMPLATE_KEY] = template.encode()
    if definition is not None and definition.kind == "tokenizerJson" and files.get(TOKENIZER_KEY) != definition.content:
        written[TOKENIZER_KEY] = with_prefix(definition.content, tokenizer)
    if definition is not None and definition.kind == "sentencePiece":
        written.setdefault(SENTENCE_PIECE_KEY, definition.content)
    if tokenizer is not None and TOKENIZER_KEY in written and TOKENIZER_CONFIG_KEY not in written:
        written[TOKENIZER_CONFIG_KEY] = encode(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False,
                "model_max_length": positions,
                **named_specials(tokenizer),
            }
        )
    if end is not None:
        for name in written.keys() & {TOKENIZER_CONFIG_KEY, "special_tokens_map.json"}:
            written[name] = encode(json_object(written, name) | {"eos_token": end.spelling})
    settings, ids = json_object(kept, GENERATION_KEY), token_ids(kept, tokenizer, end)
    is_there = GENERATION_KEY in kept
    if tokenizer is None:
        if not is_there:
            written[GENERATION_KEY] = encode({"_from_model_config": True, **ids})
        return written
    # Other programs stop at the tokens that generation_config.json names, and at no others. So it names all at which
    # Halcyon stops: those of the files, the end of a document, and the end of the assistant's turn.
    turn = None if template is None else ChatTemplate(template, tokenizer, "the chat template", day(None)).turn_end()
    ends = list(dict.fromkeys((*answer_ends(kept), tokenizer.eos_id, *(() if turn is None else (turn.id,)))))
    if is_there and set(ends) == set(answer_ends(kept)):
        return written
    # A program that takes the file for a copy of config.json would take the one end that config.json names.
    settings.pop("_from_model_config", None)
    ids = {} if kept is files and is_there else ids
    written[GENERATION_KEY] = encode({**settings, **ids, "eos_token_id": one_or_all(ends)})
    return written


def encode(document: Mapping[str, Any]) -> bytes:
    """A document as the text of a file."""
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode()


def with_prefix(content: bytes, tokenizer: Tokenizer | None) -> bytes:
    """A tokenizer.json whose post-processor puts before each text what Halcyon puts there."""
    document = json.loads(content)
    if tokenizer is None or not tokenizer.prefix or document.get("post_processor") is not None:
        return content
    spelled = {index: text for text, index in tokenizer.special_tokens.items()}
    names = [spelled[index] for index in tokenizer.prefix]
    first, second = (
        [
            {kind: {"id": name, "type_id": at}}
            for kind, name in (*(("SpecialToken", name) for name in names), ("Sequence", "AB"[at]))
        ]
        for at in (0, 1)
    )
    special = {
        name: {"id": name, "ids": [index], "tokens": [name]}
        for name, index in zip(names, tokenizer.prefix, strict=True)
    }
    processor = {"type": "TemplateProcessing", "single": first, "pair": [*first, *second], "special_tokens": special}
    return encode({**document, "post_processor": processor})
