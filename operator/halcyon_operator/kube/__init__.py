"""Requests to the Kubernetes API: the client, the list of everything the operator reads and writes, the Lease, JobSet's version.

Nothing here interprets an object or decides about a run; documents go in and out as JSON.
"""
