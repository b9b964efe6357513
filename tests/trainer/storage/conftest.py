"""Every test here has the roots."""

from tests.trainer.checkpoint.roots import file_root, gateway, root, s3_root

__all__ = ["file_root", "gateway", "root", "s3_root"]
