"""Tests on an API server without a node."""
