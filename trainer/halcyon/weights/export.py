"""The export of a checkpoint as a function call: what ``halcyon export hf`` does."""

from os import PathLike, fspath
from typing import get_args

from halcyon.checkpoint.opening import entry_of
from halcyon.checkpoint.verify import Damaged
from halcyon.host.errors import BadConfiguration, NoValidCheckpoint
from halcyon.host.storage.failures import StoreFailure, as_exit
from halcyon.host.storage.store import Store
from halcyon.weights.exporting import FILE_BYTES, export_model
from halcyon.weights.folder import address, root_place
from halcyon.weights.peft import export_adapter
from halcyon.weights.root import Weights, split_step, stored_model
from halcyon.weights.safetensors import FILE_SECONDS


def export(
    place: str,
    folder: str | PathLike[str],
    *,
    dtype: str | None = None,
    adapter: bool = False,
    weights: Weights = "model",
    file_bytes: int = FILE_BYTES,
    endpoint: str | None = None,
    region: str | None = None,
) -> str:
    """Write the model of a checkpoint in the files of Hugging Face, which transformers and vLLM read.

    Args:
        place: ``ROOT`` or ``ROOT@STEP``, as for `halcyon.load`.
        folder: An empty folder: a directory, s3:// or gs://.
        dtype: Type of the tensors: ``float32``, ``bfloat16`` or ``float16``. Default: that of the checkpoint.
        adapter: Write only the adapter, in the files of peft. Default: the model with the adapter added.
        weights: ``average``: the average of the parameters that the run keeps (``spec.average``).
        file_bytes: Largest file with tensors, in bytes.
        endpoint: Address of an S3-compatible store other than AWS, of the root and of the folder.
        region: Region of their buckets.

    Returns:
        The address of the folder.

    Raises:
        BadConfiguration: The family has no form of Hugging Face, the folder is not empty, or the run has no adapter or
            average.
        NoValidCheckpoint: The checkpoint is damaged.
        TrainerExit: A store did not answer.
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be one of {', '.join(get_args(Weights))}, not {weights!r}")
    if adapter and dtype is not None:
        raise BadConfiguration("an adapter is one small file in float32; leave dtype out")
    root, step = split_step(place)
    store = Store(root_place(root, endpoint, region))
    to = Store(address(fspath(folder), endpoint, region), timeout_seconds=FILE_SECONDS)
    try:
        stored = stored_model(store, entry_of(store, step), weights=weights)
        if adapter:
            export_adapter(stored, to)
        else:
            export_model(stored, to, dtype=dtype, file_bytes=file_bytes)
    except StoreFailure as failure:
        raise as_exit(failure, store.root, field="its address") from None
    except Damaged as damage:
        raise NoValidCheckpoint(f"{store.root}: {damage}") from None
    return to.root
