"""The fixtures of the checkpoint tests' roots, and the virtual devices of the trainer's tests."""

from tests.trainer import conftest as devices
from tests.trainer.checkpoint.roots import azure_root, blobs, file_root, gateway, proxy, root, root_behind, s3_root
from tests.trainer.conftest import shared_programs

__all__ = [
    "azure_root",
    "blobs",
    "devices",
    "file_root",
    "gateway",
    "proxy",
    "root",
    "root_behind",
    "s3_root",
    "shared_programs",
]
