"""Snapshots of the state in the memory of the pods (``spec.checkpoint.memory``), which outlive the processes there.

They are no checkpoints: no command lists them, and they end with the pods. A start in place takes the newest snapshot
of which every file can be had, from its own memory or from that of another pod, if no checkpoint is newer.
"""
