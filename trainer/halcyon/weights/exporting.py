"""Writes the model of a checkpoint as a folder that transformers, vLLM and the converter of llama.cpp read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.models.axes import POSITION, VOCAB
from halcyon.models.families.lookup import published_of_section
from halcyon.models.published.config import ConfigReader, PublishedModel
from halcyon.tokenizer import load as load_tokenizer
from halcyon.tokenizer.side_files import json_object
from halcyon.weights.chat_template import has_conversations, template_to_export
from halcyon.weights.companions import (
    BASE,
    CHAT_TEMPLATE_KEY,
    CONFIG_KEY,
    encode,
    exported_companions,
    files_for,
    new_end,
    template_of,
    token_ids,
)
from halcyon.weights.folder import model_shapes
from halcyon.weights.kept import KeptParts, KeptTensor, in_files, read_kept
from halcyon.weights.layout import FileTensor, WeightLayout, leaf_shapes
from halcyon.weights.root import StoredModel
from halcyon.weights.safetensors import INDEX_KEY, SINGLE_KEY, is_finite, write_header, write_pieces
from halcyon.weights.vectors import vector_files
from halcyon_api.checkpoint_documents import Document, canonical_json

FILE_BYTES = 5_000_000_000
"""Largest file of an export, unless one tensor is larger: what an object store takes in one request."""
S3_FILE_BYTES = 5 << 30
"""Largest value that S3 takes in one request, and the store sends each value in one:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""
PARTS = "parts/"
"""Documents of the processes that share an export, until it is complete."""


class Part(Document):
    """The files that one of several processes has written, and of which export they are."""

    manifest_sha256: str
    """Of the checkpoint."""
    dtype: str | None = None
    file_bytes: int
    files: tuple[str, ...] = ()
    given_up: str = ""
    """Why this process cannot write its other files; empty if it can."""

    def is_of(self, other: Part) -> bool:
        """Whether both are of one export."""
        return self == other.but(files=self.files, given_up=self.given_up)


@dataclass(frozen=True)
class Exported:
    """What a process wrote.

    Attributes:
        files: Names of the files with tensors.
        tensors: Number of their tensors.
        size_bytes: Bytes of the tensors.
        companions: Names of the other files; empty if other processes have not written all of theirs yet.
    """

    files: tuple[str, ...]
    tensors: int
    size_bytes: int
    companions: tuple[str, ...]


@dataclass(frozen=True)
class ExportPlan:
    """An export of a model: which tensors each file has. It is the same in every process.

    Attributes:
        stored: The model.
        form: Its form.
        files: The tensors of each file, by its name.
        kept: The parts of the model that the run did not train.
        outer: The config.json of the model with images, of which this is the text model. Empty: it is exported alone.
    """

    stored: StoredModel
    form: PublishedModel
    files: Mapping[str, Sequence[FileTensor | KeptTensor]]
    kept: KeptParts | None
    outer: Mapping[str, Any]

    def share(self, part: int, parts: int) -> tuple[str, ...]:
        """The files of process `part`, counted from 0, of `parts` processes."""
        return tuple(self.files)[part::parts]

    def write(self, to: Store, name: str) -> None:
        """Write one file with tensors.

        Raises:
            BadConfiguration: It is too large for the store, or a tensor has NaN or infinite numbers in this type.
            Damaged: A file of the checkpoint is damaged.
            StoreFailure: A store did not answer.
        """
        size = sum(one.size_bytes for one in self.files[name])
        if to.root.startswith("s3://") and size > S3_FILE_BYTES:
            raise BadConfiguration(
                f"{name} has {size} bytes, more than S3 takes in one request: its largest tensor is "
                f"{max(self.files[name], key=lambda one: one.size_bytes).name}; set dtype to bfloat16, or smaller files"
            )
        write_pieces(to, name, _contents(self.files[name], self.stored, self.kept))

    def complete(self, to: Store) -> tuple[str, ...]:
        """Write the files beside the tensors, config.json last, and return their names.

        All files with tensors must be there.
        """
        stored, form = self.stored, self.form
        tensors = [one for group in self.files.values() for one in group]
        written, ids = tokenizer_files(stored, form)
        if stored.pooling is not None:
            width = model_shapes(stored.spec, stored.tokens, stored.positions).embed.size
            documents = vector_files(stored.pooling, width, _positions(stored, form), stored.data)
            written |= {name: encode(document) for name, document in documents.items()}
        if len(self.files) > 1:
            places = {one.name: name for name, group in self.files.items() for one in group}
            size = sum(one.size_bytes for one in tensors)
            written[INDEX_KEY] = encode({"metadata": {"total_size": size}, "weight_map": places})
        dtype = jnp.result_type(*{one.dtype for one in tensors if isinstance(one, FileTensor)}).name
        # "torch_dtype" is what readers before version 5 of transformers look for.
        common = {**ids, "dtype": dtype, "torch_dtype": dtype}
        sizes = {"vocab_size": stored.tokens, form.positions: _positions(stored, form)}
        if self.outer:  # its other entries are those of the model, or no run could have begun with it
            config = {**self.outer, **common}
        else:
            base = json_object(stored.files, CONFIG_KEY) if self.kept is not None else {}
            further = form.completed(ConfigReader(base)).document.items()
            config = {
                "architectures": [form.architectures[0]],
                "model_type": form.model_type,
                **({} if form.images else sizes),
                **form.write(stored.spec, sizes[form.positions]),
                **{name: value for name, value in further if "mtp" in name or "nextn" in name},
                **common,
                "use_cache": True,
            }
        if self.outer or form.images:  # older files have the entries of both parts beside each other
            text = config.get("text_config")
            config |= {"text_config": {**text, **sizes, **common}} if text else sizes
        definition = stored.definition
        if classes := stored.spec.classes:
            config |= {
                "architectures": [form.classifier],
                "id2label": {str(number): name for number, name in enumerate(classes)},
                "label2id": {name: number for number, name in enumerate(classes)},
                # transformers finds the last token of a text by it
                **({} if definition is None else {"pad_token_id": load_tokenizer(definition).pad_id}),
                **ids,
            }
        if further := getattr(stored.spec, "num_nextn_predict_layers", None):
            inner = config.get("text_config", config) if self.outer else config
            name = "mtp_num_hidden_layers" if form.model_type.startswith("qwen3_5") else "num_nextn_predict_layers"
            inner[name] = further
        written[CONFIG_KEY] = encode(config)
        for name, data in written.items():
            to.write(name, data)
        return tuple(written)


def plan_export(stored: StoredModel, *, dtype: str | None = None, file_bytes: int = FILE_BYTES) -> ExportPlan:
    """Distribute the tensors of a model over files.

    Args:
        stored: The model.
        dtype: Type of all tensors. None: that of the checkpoint.
        file_bytes: Largest file, unless one tensor is larger.

    Raises:
        BadConfiguration: The family has no form of Hugging Face.
        Damaged: The document of the kept parts is damaged.
        StoreFailure: The store did not answer.
    """
    form, kept = published_of_section(stored.spec), read_kept(stored.root)
    outer = {
        name: value
        for name, value in json_object(stored.files, CONFIG_KEY).items()
        if name not in (BASE, "quantization_config")  # an export has wide weights
    }
    names = kept.listed.names if kept is not None and (outer.get("text_config") or outer.get("vision_config")) else {}
    outer = outer if names else {}
    layout = export_layout(stored, form, None if dtype is None else np.dtype(dtype))
    tensors: list[FileTensor | KeptTensor] = []
    for one in layout.tensors.values():
        first, dot, rest = one.name.partition(".")
        tensors.append(dataclasses.replace(one, name=names.get(first, first) + dot + rest))
    tensors += () if kept is None else kept.listed.tensors
    groups = in_files(tensors, file_bytes)
    files = {f"model-{number:05}-of-{len(groups):05}.safetensors": group for number, group in enumerate(groups, 1)}
    return ExportPlan(stored, form, files if len(groups) > 1 else {SINGLE_KEY: groups[0]}, kept, outer)


def export_model(
    stored: StoredModel,
    to: Store,
    *,
    dtype: str | None = None,
    file_bytes: int = FILE_BYTES,
    part: int = 0,
    parts: int = 1,
) -> Exported:
    """Write a model into a folder. config.json comes last, so a killed export has none.

    Memory: a folder of this machine takes one tensor at a time, an object store a whole file, which is in memory twice.

    Several processes can share the work: process `part` of `parts` writes every `parts`-th file and reads what is in
    these. Then it records its files in a document of the folder. The process that finds all files recorded writes the
    rest.

    Args:
        stored: The model.
        to: The folder.
        dtype: Type of all tensors. None: that of the checkpoint.
        file_bytes: Largest file, unless one tensor is larger. The same in all processes.
        part: The share of this process, counted from 0.
        parts: The number of processes.

    Raises:
        BadConfiguration: The family has no form of Hugging Face, the folder holds a model or a part of another export,
            or a tensor has NaN or infinite numbers in this type.
        Damaged: A file of the checkpoint is damaged.
        StoreFailure: A store did not answer.
    """
    plan = plan_export(stored, dtype=dtype, file_bytes=file_bytes)
    own = plan.share(part, parts)
    mine = Part(manifest_sha256=stored.arrays.entry.manifest_sha256, dtype=dtype, file_bytes=file_bytes, files=own)
    _require_own_folder(to, mine, plan.files.keys() - set(own))
    for name in own:
        plan.write(to, name)
    if parts > 1:
        to.write(f"{PARTS}{part + 1}-of-{parts}.json", canonical_json(mine.document()))
    written = set(own).union(*(one.files for one in read_parts(to) if one.is_of(mine)))
    companions = ()
    if plan.files.keys() <= written:
        companions = plan.complete(to)
        if parts > 1:
            to.delete_prefix(PARTS)
    tensors = [one for name in own for one in plan.files[name]]
    return Exported(own, len(tensors), sum(one.size_bytes for one in tensors), companions)


def _require_own_folder(to: Store, mine: Part, others: Set[str]) -> None:
    """Check that a folder holds nothing but files of the other parts of this export."""
    there = to.list("")
    if CONFIG_KEY in there:
        raise BadConfiguration(f"{to.root} holds a model already; give a folder that is empty")
    if any(not one.is_of(mine) for one in read_parts(to)):
        raise BadConfiguration(
            f"{to.root} holds a part of another export; give all commands the same ROOT@STEP, --dtype and "
            "--file-bytes, and a folder that was empty"
        )
    if any(key.endswith(".safetensors") and key not in others for key in there):
        raise BadConfiguration(
            f"{to.root} holds files of an unfinished export; delete them, or give a folder that is empty"
        )


def read_parts(folder: Store) -> list[Part]:
    """The documents of the processes that share an export."""
    return [part for key in folder.list(PARTS) if (part := Part.parse(folder.read(key).data)) is not None]


def tokenizer_files(stored: StoredModel, form: PublishedModel) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files beside the weights but config.json, by name: tokenizer, chat template, settings of generation. And the
    ids of special tokens for config.json.
    """
    files, definition = stored.files, stored.definition
    tokenizer = load_tokenizer(definition) if definition is not None else None
    template, fitting = template_to_export(stored.data, files), files_for(files, definition, tokenizer)
    # A run that has not trained on conversations exports the ends of the files.
    end = new_end(fitting, tokenizer, template) if has_conversations(stored.data) else None
    written = exported_companions(files, definition, tokenizer, _positions(stored, form), template, end)
    return written, token_ids(fitting, tokenizer, end)


def template_note(stored: StoredModel) -> str | None:
    """A sentence if the chat template of an export is not that of the model that the run began with.

    None: it is, or there is none.
    """
    if template_to_export(stored.data, stored.files) in (None, template_of(stored.files)):
        return None
    base = "differs from that of the base model"
    if template_of(stored.files) is None:
        base = "is its own: the base model has none"
    return f"the chat template in {CHAT_TEMPLATE_KEY} {base}; programs must take it from this folder"


def _positions(stored: StoredModel, form: PublishedModel) -> int:
    """Longest sequence of a model.

    Training on shorter sequences does not shorten that of the base, unless positions are learned.
    """
    learned = any(POSITION in (leaf.axes or ()) for leaf in stored.arrays.leaves.values())
    if learned or CONFIG_KEY not in stored.files:
        return stored.positions
    base = form.completed(ConfigReader.parse(stored.files[CONFIG_KEY]))
    return max(stored.positions, base.integer(form.positions, 0))


def export_layout(stored: StoredModel, form: PublishedModel, dtype: np.dtype | None) -> WeightLayout:
    """The tensors of a stored model. The padding of its vocabulary is left out.

    Raises:
        BadConfiguration: The checkpoint does not hold the model that it says.
    """
    shapes = {leaf.path: leaf for leaf in leaf_shapes(model_shapes(stored.spec, stored.tokens, stored.positions))}
    there = stored.arrays.leaves
    if shapes.keys() != there.keys():
        path = min(shapes.keys() ^ there.keys())
        raise BadConfiguration(
            f"the array model.{path} is only in the {'model' if path in shapes else 'checkpoint'}; export another "
            "checkpoint"
        )
    leaves = [dataclasses.replace(leaf, dtype=dtype or np.dtype(there[path].dtype)) for path, leaf in shapes.items()]
    return WeightLayout(form.tensors(stored.spec), leaves, {VOCAB: stored.tokens, POSITION: stored.positions})


def _contents(
    tensors: Sequence[FileTensor | KeptTensor], stored: StoredModel, kept: KeptParts | None
) -> Iterator[bytes | memoryview]:
    yield write_header(
        [(one.name, one.type if isinstance(one, KeptTensor) else one.dtype, one.shape) for one in tensors]
    )
    for one in tensors:
        if isinstance(one, KeptTensor):
            yield from () if kept is None else kept.pieces(one, [])
            continue
        with np.errstate(over="ignore"):
            values = one.values(stored.arrays.read)
        if not is_finite(values):
            wide = dataclasses.replace(one, dtype=np.dtype(np.float32))
            raise BadConfiguration(
                f"the tensor {one.name} has numbers beyond the range of {one.dtype.name}; set dtype to bfloat16 or "
                "float32"
                if is_finite(wide.values(stored.arrays.read))
                else f"the tensor {one.name} has NaN or infinite numbers in the checkpoint of step "
                f"{stored.arrays.entry.step}; export an earlier step"
            )
        yield np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
