"""Requests to the Kubernetes API: the client, everything that the operator reads and writes, the Lease, JobSet's
version.

Nothing here interprets an object or decides about a run; documents are JSON.
"""
