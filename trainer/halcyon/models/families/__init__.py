"""Model families, one short file each, built from `halcyon.models.parts`.

A part that two families share belongs to `parts`.
"""
