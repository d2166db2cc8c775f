"""Diagnostics as text: plain, in colour for a terminal, or as data for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from attnspec.dsl.diagnostics import Diagnostic

if TYPE_CHECKING:
    from rich.text import Text

_WIDTH: Final = 100  # of a source line; a longer one is cut around the span
_COLOUR: Final = {"error": "bold red", "warning": "bold yellow"}


def plain(diagnostic: Diagnostic, text: str, path: str) -> str:
    """`diagnostic` over the lines it speaks of; `text` is the spec, `path` where it stands."""
    return "".join(piece for piece, _ in _pieces(diagnostic, text, path))


def coloured(diagnostic: Diagnostic, text: str, path: str) -> Text:
    """The same text with styles; print it with `soft_wrap=True`, or rich breaks its lines."""
    from rich.text import Text  # slow to import, and only a terminal needs it

    return Text.assemble(*_pieces(diagnostic, text, path))


def to_json(diagnostic: Diagnostic, path: str) -> dict[str, object]:
    """`diagnostic` as plain data, with the path of its spec."""
    return {"path": path, **asdict(diagnostic)}


def _pieces(diagnostic: Diagnostic, text: str, path: str) -> Iterator[tuple[str, str]]:
    """The rendering as (text, style)."""
    colour = _COLOUR[diagnostic.severity]
    marks = [(diagnostic.span, diagnostic.label, "^", colour)]
    marks += [(span, label, "-", "bold blue") for span, label in diagnostic.notes]
    marks.sort(key=lambda mark: mark[0].start)
    width = len(str(marks[-1][0].line))
    margin = " " * width
    yield f"{diagnostic.severity}[{diagnostic.code}]", colour
    yield f": {_printable(diagnostic.title)}\n", "bold"
    yield f"{margin}--> ", "blue"
    yield f"{_printable(path)}:{diagnostic.span.line}:{diagnostic.span.column}\n", ""
    yield f"{margin} |\n", "blue"
    lines = text.split("\n")
    shown = 0
    for span, label, sign, style in marks:
        line = lines[span.line - 1].rstrip("\r") if span.line <= len(lines) else ""
        excerpt, column = _excerpt(line, span.column - 1)
        if span.line != shown or len(line) > _WIDTH:
            if shown and span.line > shown + 1:
                yield "...\n", "blue"
            yield f"{span.line:>{width}} |", "blue"
            yield f" {excerpt}".rstrip() + "\n", ""
            shown = span.line
        yield f"{margin} | ", "blue"
        last = span.end_column - 1 if span.end_line == span.line else len(line)
        length = max(1, min(last - span.column + 1, len(excerpt) - column))
        yield f"{' ' * column}{sign * length} {_printable(label)}".rstrip() + "\n", style
    if diagnostic.help:
        yield f"{margin} = ", "blue"
        yield "help", "bold"
        yield f": {_printable(diagnostic.help)}\n", ""


def _excerpt(line: str, column: int) -> tuple[str, int]:
    """The part of `line` around `column` that is shown, and where `column` stands in it."""
    if len(line) <= _WIDTH:
        return _printable(line), column
    start = max(0, column - _WIDTH // 2)
    cut = "..." if start else ""
    rest = "..." if start + _WIDTH < len(line) else ""
    return f"{cut}{_printable(line[start : start + _WIDTH])}{rest}", column - start + len(cut)


def _printable(text: str) -> str:
    """`text` with nothing in it that a terminal would obey; every character keeps its column."""
    return "".join(c if c.isprintable() else " " if c == "\t" else "\ufffd" for c in text)
