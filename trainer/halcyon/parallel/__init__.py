"""Processes and devices: joining the world, the device mesh, the table of axes, preemption notices."""
