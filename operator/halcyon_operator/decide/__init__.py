"""Computes a decision from an observation and the time: status, next step, events, requests. Pure, and defined for
every observation.

It imports only `model`, `halcyon_api` and the standard library; clocks, randomness, I/O and Kubernetes objects are not
allowed here.
"""
