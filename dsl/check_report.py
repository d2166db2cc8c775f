"""Collecting what the checker finds."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from attnspec.dsl.diagnostics import Diagnostic
from attnspec.dsl.span import Span


class Failed(Exception):
    """A part of the spec cannot be elaborated; why is already reported."""


class Report:
    """The findings of one run over a spec, each place and code once, in order of discovery."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, int, str], Diagnostic] = {}

    def error(
        self,
        code: str,
        title: str,
        span: Span,
        label: str,
        help: str,
        notes: tuple[tuple[Span, str], ...] = (),
    ) -> Failed:
        """Record an error; the result is for `raise` where nothing can go on without it."""
        self.add(Diagnostic(code, "error", title, span, label, help, notes))
        return Failed()

    def warn(self, code: str, title: str, span: Span, label: str, help: str) -> None:
        """Record a warning."""
        self.add(Diagnostic(code, "warning", title, span, label, help))

    def add(self, found: Diagnostic) -> None:
        """Record a finding unless the same one stands already."""
        key = (found.code, found.span.start, found.span.end, found.title)
        self._found.setdefault(key, found)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The errors, by place."""
        return self._sorted("error")

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """The warnings, by place."""
        return self._sorted("warning")

    def _sorted(self, severity: str) -> tuple[Diagnostic, ...]:
        found = [d for d in self._found.values() if d.severity == severity]
        return tuple(sorted(found, key=lambda d: (d.span.start, d.code)))


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """A help sentence that offers the nearest known name, else `otherwise`."""
    near = get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)
    if not near:
        lowered = {k.lower(): k for k in sorted(set(known))}
        near = [lowered[name.lower()]] if name.lower() in lowered else []
    return f"did you mean `{near[0]}`?" if near else otherwise


def head(span: Span, word: str) -> Span:
    """The place of the word that something starts with."""
    if span.end - span.start <= len(word):
        return span
    end = len(word)
    return Span(span.start, span.start + end, span.line, span.column, span.line, span.column + end)
