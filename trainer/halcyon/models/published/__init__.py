"""The words in which a family's file states its form in the files of Hugging Face: names, axes, and keys of ``config.json``.

Everything here is a plain value or computes one. Nothing imports JAX, and nothing reads or writes files: `halcyon.huggingface` does, from
these declarations. So the file of a family can hold its declaration too, and a training that imports the family loads no code for files.
"""
