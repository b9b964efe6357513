"""The sections of ``spec.model``: one file for each model family."""
