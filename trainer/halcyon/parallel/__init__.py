"""Processes and devices: the process group, the device mesh, the table of axes, preemption notices."""
