"""The server of the command line's tests, in the place of a cluster."""

from tests.cli.conftest import runs, server

__all__ = ["runs", "server"]
