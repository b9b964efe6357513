"""Model families, one short file each, put together from `halcyon.models.parts`.

A part that two families share belongs to `parts`.
"""
