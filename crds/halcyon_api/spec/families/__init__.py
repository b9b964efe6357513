"""The families of ``spec.model``: one file for each, or for a few that are alike.

A class here whose `family` has a value is a family; no list names it. The trainer's file of the same name in
``halcyon.models.families`` computes it.
"""
