"""Mixes sources: a pure function maps a position of the run to a source and a rank in that source's own order.

Modules: ``shares`` (sequences of each source in a block), ``mixture`` (their places), ``build`` (from ``spec.data``).
"""

from halcyon.data.mixture.build import build_mixture, rehearsed_sequences, stop_problem
from halcyon.data.mixture.mixture import Mixture

__all__ = ["Mixture", "build_mixture", "rehearsed_sequences", "stop_problem"]
