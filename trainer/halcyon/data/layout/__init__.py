"""Layouts: how documents become sequences.

A cache holds the tokens of a source as one stream, and the end of each document in it. A layout maps the number of a sequence to spans of
that stream. It is a pure function, with compact arrays where the choice needs memory. Every sequence holds ``sequence_length + 1`` tokens:
``sequence_length`` inputs and, shifted by one token, ``sequence_length`` targets. Sequences do not overlap, so no held-out token is seen in
training.

Modules: ``spans`` (the value), ``concatenate``, ``pack`` and ``best_fit`` (the layouts), ``build`` (from ``spec.data.sources[].layout``),
``whole`` and ``prompts`` (the layouts of objectives that keep conversations whole, or answer prompts) and ``packing`` (from
``spec.objective``).
"""

from halcyon.data.layout.best_fit import BestFit
from halcyon.data.layout.build import Layout, build_layout, load_layout
from halcyon.data.layout.concatenate import Concatenate
from halcyon.data.layout.pack import Pack
from halcyon.data.layout.packing import OnePrompt, Packing, packing_of
from halcyon.data.layout.prompts import Prompts
from halcyon.data.layout.report import LayoutReport
from halcyon.data.layout.spans import Spans, split_at_documents
from halcyon.data.layout.whole import WholeUnits

__all__ = [
    "BestFit",
    "Concatenate",
    "Layout",
    "LayoutReport",
    "OnePrompt",
    "Pack",
    "Packing",
    "Prompts",
    "Spans",
    "WholeUnits",
    "build_layout",
    "load_layout",
    "packing_of",
    "split_at_documents",
]
