"""Reads and damages checkpoint roots for tests."""

from __future__ import annotations

import hashlib

from obstore.store import S3Store

from halcyon_api.checkpoint_documents import (
    DATA_PREFIX,
    HEAD_KEY,
    MANIFEST_KEY,
    STEPS_PREFIX,
    CommittedStep,
    Head,
    Manifest,
    decode_head,
)


def read(root: S3Store, key: str) -> bytes:
    return bytes(root.get(key).bytes())


def head(root: S3Store) -> Head:
    return decode_head(read(root, HEAD_KEY))


def files(root: S3Store, checkpoint: CommittedStep) -> dict[str, str]:
    """Keys of a checkpoint's files and their expected hashes, after the manifest's own hash is verified."""
    manifest = read(root, f"{checkpoint.path}{MANIFEST_KEY}")
    assert hashlib.sha256(manifest).hexdigest() == checkpoint.manifest_sha256
    listed = Manifest.model_validate_json(manifest).files
    return {f"{checkpoint.path}{DATA_PREFIX}{file.path}": file.sha256 for file in listed}


def flip_a_bit(root: S3Store, checkpoint: CommittedStep) -> None:
    """Flip a bit in the middle of the checkpoint's largest file."""
    key = max(files(root, checkpoint), key=lambda key: root.head(key)["size"])
    content = bytearray(read(root, key))
    content[len(content) // 2] ^= 1
    root.put(key, bytes(content))


def begun(root: S3Store) -> set[str]:
    """Prefixes `steps/<name>/` of all checkpoints that were begun."""
    return set(root.list_with_delimiter(STEPS_PREFIX.rstrip("/"))["common_prefixes"])
