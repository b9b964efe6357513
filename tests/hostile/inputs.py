"""Makers of hostile files."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import zstandard

Make = Callable[[Path], None]
RUN_GROUP = {
    "event": "group", "number": 1, "attempt": 1, "restart": 0, "writer": "w1", "resumedStep": 0, "began": 1000.0,
    "run": "tiny", "steps": 9,
}  # fmt: skip
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_END = {
    "id": 256,
    "content": "<|endoftext|>",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "hidden_act": "silu", "tie_word_embeddings": True, "vocab_size": 70, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def files(contents: Mapping[str, str | bytes]) -> Make:
    """Some files, by name."""

    def make(folder: Path) -> None:
        for name, content in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def file(name: str, content: Callable[[], str | bytes]) -> Make:
    """A file whose content is made when it is written."""
    return lambda folder: files({name: content()})(folder)


def pipe(name: str) -> Make:
    """A named pipe that nobody writes into."""

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / name)

    return make


def link(name: str, target: str) -> Make:
    """A symbolic link."""

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)

    return make


def sparse(name: str, size_bytes: int) -> Make:
    """A file of zeros that takes no space."""

    def make(folder: Path) -> None:
        with (folder / name).open("wb") as stream:
            stream.truncate(size_bytes)

    return make


def together(*makes: Make) -> Make:
    """The files of several makers."""

    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


def repeated_zstd(size_bytes: int, window_log: int = 0) -> bytes:
    """A zst file of one letter."""
    settings = zstandard.ZstdCompressionParameters(window_log=window_log, enable_ldm=True) if window_log else None
    made = zstandard.ZstdCompressor(compression_params=settings) if settings else zstandard.ZstdCompressor()
    compressor = made.compressobj()
    return b"".join([*(compressor.compress(b"a" * 2**20) for _ in range(size_bytes >> 20)), compressor.flush()])


def parquet(columns: Callable[[], Mapping[str, Any]]) -> Make:
    """A Parquet file, rows.parquet."""

    def make(folder: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet as library

        library.write_table(
            pa.table(dict(columns())), folder / "rows.parquet", compression="zstd", row_group_size=2**22
        )

    return make


def repeated(rows: int, text: str) -> Any:
    """A column with one text in each row, which the file has once."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def tokenizer(**changes: Any) -> str:
    """A tokenizer.json of bytes with changes; those of the model begin with ``model_``."""
    vocabulary = {name: number for number, name in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    model |= {name.removeprefix("model_"): value for name, value in changes.items() if name.startswith("model_")}
    made = {
        "version": "1.0",
        "added_tokens": [_END],
        "normalizer": None,
        "pre_tokenizer": _BYTES,
        "decoder": _BYTES,
        "model": model,
    }
    return json.dumps(made | {name: value for name, value in changes.items() if not name.startswith("model_")})


def replacing(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    """A step that replaces text."""
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def steps(*found: dict[str, Any], kind: str = "normalizers") -> dict[str, Any]:
    """A sequence of steps."""
    return {"type": "Sequence", kind: list(found)}


def safetensors(entries: Any, data: bytes = b"", size: int | None = None) -> bytes:
    """A safetensors file with any header."""
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(header) if size is None else size).to_bytes(8, "little") + header + data


def model(tensors: bytes, **config: Any) -> Make:
    """The folder of a model: model/config.json and model/model.safetensors."""
    return files({"model/config.json": json.dumps(CONFIG | config), "model/model.safetensors": tensors})


def whole_model(folder: Path) -> None:
    """A complete tiny model in model/."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (70, 8), "model.norm.weight": (8,)}
    at = "model.layers.0"
    shapes |= {f"{at}.{name}_layernorm.weight": (8,) for name in ("input", "post_attention")}
    shapes |= {
        f"{at}.self_attn.{name}_proj.weight": (rows, 8) for name, rows in (("q", 8), ("k", 4), ("v", 4), ("o", 8))
    }
    shapes |= {
        f"{at}.mlp.{name}_proj.weight": shape for name, shape in (("gate", (12, 8)), ("up", (12, 8)), ("down", (8, 12)))
    }
    model(_zeros(shapes))(folder)


def adapter(module: str = "model.layers.0.self_attn.q_proj", rank: int = 2, **config: Any) -> Make:
    """A complete tiny model, and an adapter of it with fields of adapter_config.json in adapter/."""

    def make(folder: Path) -> None:
        whole_model(folder)
        name = f"base_model.model.{module}"
        tensors = _zeros({f"{name}.lora_A.weight": (rank, 8), f"{name}.lora_B.weight": (8, rank)})
        written = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": "all-linear", **config}
        files({"adapter/adapter_config.json": json.dumps(written), "adapter/adapter_model.safetensors": tensors})(
            folder
        )

    return make


def _zeros(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    entries: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    return safetensors(entries, bytes(end))


def segment(*lines: Any, head: Any = None) -> Make:
    """A root whose history has a segment with some rows."""
    first = (
        {"format": 1, "level": 0, "first": 1, "last": 1, "number": 1, "writer": "w1", "lost": []}
        if head is None
        else head
    )
    text = b"\n".join(json.dumps(line).encode() for line in (first, *lines))
    return files(
        {
            "root/metrics/000000001-000000001.0.000001.w1.jsonl.zst": zstandard.ZstdCompressor(
                write_checksum=True
            ).compress(text)
        }
    )


def head(**changes: Any) -> Make:
    """A root whose HEAD is valid, but for some fields, with the right hash."""
    from halcyon_api.checkpoint_documents import CommittedStep, Epoch, Head, Owner, encode_head

    entry = CommittedStep.model_construct(
        step=1,
        epoch=Epoch(attempt=1, restart=0),
        path="steps/000000001.1.w1",
        manifest_sha256="0" * 64,
        size_bytes=1,
        **changes,
    )
    made = Head.model_construct(
        owner=Owner(namespace="default", name="tiny"),
        epoch=Epoch(attempt=1, restart=0),
        writer="w1",
        committed=(entry,),
    )
    return file("root/HEAD", lambda: encode_head(made))


def zip_bomb() -> bytes:
    """A zip file that becomes ten gigabytes."""
    found = io.BytesIO()
    with (
        zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a", "w", force_zip64=True) as inside,
    ):
        for _ in range(64):
            inside.write(bytes(2**20))
    return found.getvalue()
