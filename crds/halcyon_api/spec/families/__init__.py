"""The families of ``spec.model``: one file for each, or for a few that are alike."""
