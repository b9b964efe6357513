"""The fixtures of roots, for every test of this folder."""

from tests.trainer.checkpoint.roots import file_root, gateway, root, s3_root

__all__ = ["file_root", "gateway", "root", "s3_root"]
