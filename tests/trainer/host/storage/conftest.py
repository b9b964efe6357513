"""The fixtures of roots, for every test of this folder."""

from tests.trainer.checkpoint.roots import any_root, azure_root, blobs, file_root, gateway, root, s3_root

__all__ = ["any_root", "azure_root", "blobs", "file_root", "gateway", "root", "s3_root"]
