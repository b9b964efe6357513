"""The files of sentence-transformers beside a model: which features the vector of a text is made of, that it has the
norm 1, and what is put before queries and other texts.
"""

from collections.abc import Mapping
from typing import Any

from halcyon.host.errors import BadConfiguration
from halcyon.models.pooling import Pooling
from halcyon.tokenizer.side_files import json_object
from halcyon_api.spec.objective import ContrastiveSpec

MODULES_KEY, POOLING_KEY, PROMPTS_KEY = "modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"
_ON = "pooling_mode_"
_MODES: Mapping[Pooling, str] = {"mean": f"{_ON}mean_tokens", "last": f"{_ON}lasttoken", "cls": f"{_ON}cls_token"}
_MODULES = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}


def pooling_of(files: Mapping[str, bytes]) -> Pooling | None:
    """What the vector of a text is made of by the files of a model; None: they do not say, or it is something else.

    Raises:
        BadConfiguration: A file is damaged.
    """
    document, modules = json_object(files, POOLING_KEY), files.get(MODULES_KEY, b"")
    on = [key for key, value in document.items() if value is True and key.startswith(_ON)]
    whole = modules.count(b'"type"') == sum(modules.count(f'.{kind}"'.encode()) for kind in _MODULES)
    return next((name for name, mode in _MODES.items() if whole and on == [mode]), None)


def check_pooling(files: Mapping[str, bytes], contrastive: ContrastiveSpec | None, root: str) -> None:
    """Check that a run makes vectors as the model does that it begins with.

    Raises:
        BadConfiguration: It does not.
    """
    if contrastive is None or POOLING_KEY not in files or (found := pooling_of(files)) == contrastive.pooling:
        return
    fix = "in a way that Halcyon does not have; take another model" if found is None else f"by {found}; set it to that"
    raise BadConfiguration(f"spec.objective.contrastive.pooling: the model in {root} makes its vectors {fix}")


def vector_files(pooling: Pooling, width: int, positions: int, data: Mapping[str, Any]) -> dict[str, Any]:
    """The documents to write beside a model that makes vectors, by the names of their files.

    Args:
        pooling: What they are made of.
        width: Numbers of a vector.
        positions: Longest text in tokens.
        data: ``spec.data`` of its run.
    """
    documents: dict[str, Any] = {
        MODULES_KEY: [
            {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for at, (kind, path) in enumerate(_MODULES.items())
        ],
        "sentence_bert_config.json": {"max_seq_length": positions, "do_lower_case": False},
        POOLING_KEY: {"word_embedding_dimension": width} | {mode: name == pooling for name, mode in _MODES.items()},
    }
    for source in data.get("sources", ()):
        if pair := source["format"].get("pair"):
            prompts = {"query": pair["queryPrefix"], "document": pair["textPrefix"]}
            documents[PROMPTS_KEY] = {"prompts": prompts, "similarity_fn_name": "cosine"}
    return documents
