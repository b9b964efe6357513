"""Runs the operator: process, watches, work queue, control loop, metrics, health, settings.

This is the only room that puts the others together. Rules about runs do not belong here.
"""
