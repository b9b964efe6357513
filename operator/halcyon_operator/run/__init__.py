"""Runs the operator: process, watches, work queue, control loop, metrics, health, settings.

Only this package imports all others. Rules about runs do not belong here.
"""
