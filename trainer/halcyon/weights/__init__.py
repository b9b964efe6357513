"""Imports and exports models in the files of Hugging Face: safetensors, ``config.json`` and the files of a tokenizer.

The file of a family declares which tensor holds which parameter. Here are the files: `safetensors` has their format,
`folder` a folder with a model, and the other modules carry the weights between such a folder, a checkpoint root and the
devices of a run. Weights are carried in regions, so the memory that this needs does not depend on the size of the
model.
"""
