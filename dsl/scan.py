"""What must hold of a text before it is parsed: its size, its characters, its brackets."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from attnspec.dsl.diagnostics import Diagnostic
from attnspec.dsl.limits import BRACKET_DEPTH, FILE_BYTES
from attnspec.dsl.span import Span

# Characters that no editor shows, or that change how the line around them is shown.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_ALLOWED: Final = frozenset({"\t", "\n"})
_PIECE: Final = re.compile(
    r'#[^\n]*|"""[\s\S]*?"""|"(?!"")[^"\n]*"|(?P<quote>"(?:"")?)|(?P<open>[(\[])|(?P<close>[)\]])'
)
_CLOSER: Final = {"(": ")", "[": "]"}


def scan(text: str) -> Diagnostic | None:
    """The first reason why `text` must not reach the parser, if there is one."""
    return _length(text) or _characters(text) or _brackets(text)


def locate(text: str, start: int, end: int) -> Span:
    """The span of `text[start:end]`."""
    line, column = _place(text, start)
    end_line, end_column = _place(text, end)
    return Span(start, end, line, column, end_line, end_column)


def _place(text: str, at: int) -> tuple[int, int]:
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _length(text: str) -> Diagnostic | None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size <= FILE_BYTES:
        return None
    return Diagnostic(
        "A001",
        "error",
        "the file is too long",
        Span(0, 0, 1, 1, 1, 1),
        f"{size} bytes, at most {FILE_BYTES} are read",
        "write one mechanism a file, and give long tables at the call",
    )


def _characters(text: str) -> Diagnostic | None:
    for at, char in enumerate(text):
        if char.isprintable() or char in _ALLOWED or text.startswith("\r\n", at):
            continue
        if unicodedata.category(char) in _INVISIBLE:
            return Diagnostic(
                "A002",
                "error",
                "the text holds an invisible character",
                locate(text, at, at + 1),
                f"character U+{ord(char):04X}",
                "delete it",
            )
    return None


def _brackets(text: str) -> Diagnostic | None:
    opened: list[int] = []
    for piece in _PIECE.finditer(text):
        at, end = piece.span()
        if piece["quote"]:
            return _unclosed_quote(text, at, end)
        if piece["open"]:
            opened.append(at)
            if len(opened) > BRACKET_DEPTH:
                return Diagnostic(
                    "A005",
                    "error",
                    "brackets are nested too deep",
                    locate(text, at, end),
                    f"more than {BRACKET_DEPTH} inside one another",
                    "name a part of the expression with `let`",
                )
        elif piece["close"]:
            if not opened:
                return Diagnostic(
                    "A004",
                    "error",
                    f"`{piece[0]}` closes nothing",
                    locate(text, at, end),
                    "no bracket is open here",
                    f"delete it, or open it with `{'(' if piece[0] == ')' else '['}`",
                )
            start = opened.pop()
            if piece[0] != _CLOSER[text[start]]:
                return Diagnostic(
                    "A004",
                    "error",
                    f"`{text[start]}` is closed by `{piece[0]}`",
                    locate(text, at, end),
                    f"expected `{_CLOSER[text[start]]}`",
                    "close brackets in the order in which they were opened, from the inside",
                    ((locate(text, start, start + 1), "opened here"),),
                )
    if not opened:
        return None
    start = opened[-1]
    return Diagnostic(
        "A004",
        "error",
        f"`{text[start]}` is never closed",
        locate(text, start, start + 1),
        "opened here",
        f"close it with `{_CLOSER[text[start]]}`",
    )


def _unclosed_quote(text: str, at: int, end: int) -> Diagnostic:
    doc = end - at > 1
    return Diagnostic(
        "A003",
        "error",
        "a docstring is never closed" if doc else "a text is not closed on its line",
        locate(text, at, end),
        "opened here",
        'close it with `"""`' if doc else 'close it with `"`',
    )
