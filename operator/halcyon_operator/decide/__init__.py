"""Decides what follows from an observation and the time: status, next step, events, requests. Pure, and total over any observation.

It imports only `model`, `halcyon_api` and the standard library; clocks, randomness, I/O and Kubernetes objects stay outside.
"""
