"""Symbolic facts: what is proved of a spec, and what it buys."""

from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.analysis.facts import Facts, analyze

__all__ = ["Fact", "Facts", "analyze"]
