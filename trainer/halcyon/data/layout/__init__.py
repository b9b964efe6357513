"""How documents become sequences.

A cache holds the tokens of a source as one stream, and where each document ends in it. A layout maps the number of a sequence to spans of
that stream: a pure function, with compact arrays where the choice needs memory. Every sequence holds ``sequence_length + 1`` tokens: as
many inputs and, one place later, as many targets. Sequences overlap by no token, so no held-out token is ever seen in training.

Rooms: ``spans`` (the value), ``concatenate``, ``pack`` and ``best_fit`` (the layouts), ``build`` (from ``spec.data.sources[].layout``).
"""

from halcyon.data.layout.best_fit import BestFit
from halcyon.data.layout.build import Layout, build_layout, load_layout
from halcyon.data.layout.concatenate import Concatenate
from halcyon.data.layout.pack import Pack
from halcyon.data.layout.report import LayoutReport
from halcyon.data.layout.spans import Spans, split_at_documents

__all__ = ["BestFit", "Concatenate", "Layout", "LayoutReport", "Pack", "Spans", "build_layout", "load_layout", "split_at_documents"]
