"""Builds Kubernetes objects from plain values: JobSet, ConfigMap, pod template, hardware, fabric, probe. Pure.

Nothing here decides whether an object should exist, and nothing here sends a request.
"""
