"""Model families, one file each, built from `halcyon.models.parts`. A part that two families share belongs to `parts`.

The file of a family says what its decoder is made of (``design``), and which tensors and keys it has in the files of
Hugging Face (``tensors`` and a config, in the words of `halcyon.models.published`). `table` has one row for each
family; `lookup` finds the family of a config.json.
"""
