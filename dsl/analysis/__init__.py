"""Symbolic facts: what is proved of a spec, and what it buys."""

from attnspec.dsl.analysis.facts import Fact, Facts, analyze

__all__ = ["Fact", "Facts", "analyze"]
