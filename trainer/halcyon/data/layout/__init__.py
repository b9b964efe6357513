"""Layouts: how documents become sequences.

A cache holds the tokens of a source as one stream, and the end of each document in it. A layout maps the number of a
sequence to spans of that stream. It is a pure function, with compact arrays where the choice needs memory. Every
sequence holds ``sequence_length + 1`` tokens: ``sequence_length`` inputs and, shifted by one token, ``sequence_length``
targets. Sequences do not overlap, so no held-out token is seen in training.

Modules: ``spans`` (the value), ``concatenate``, ``pack`` and ``best_fit`` (the layouts of
``spec.data.sources[].layout``), ``whole`` and ``prompts`` (the layouts of objectives that keep conversations whole, or
answer prompts) and ``packer`` (what makes each of them).
"""
