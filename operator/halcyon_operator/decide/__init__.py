"""Computes a decision from an observation and the time: status, next step, events, requests. Pure, and defined for
every observation.

`reconcile` is the centre. It writes down what was observed (`record`), chooses the next step (`next`), and both tell
the user about it (`tell`). It imports only `model`, `halcyon_api` and the standard library; clocks, randomness, I/O and
Kubernetes objects are not allowed here.
"""
