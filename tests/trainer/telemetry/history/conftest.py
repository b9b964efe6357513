"""The fixtures of roots in an object store."""

from tests.trainer.checkpoint.roots import gateway, s3_root

__all__ = ["gateway", "s3_root"]
