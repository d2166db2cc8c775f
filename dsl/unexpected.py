"""What the parser did not expect, and what it did, in words."""

from __future__ import annotations

from collections.abc import Set
from difflib import get_close_matches
from typing import Final

from lark import Token

from attnspec.dsl.diagnostics import Diagnostic
from attnspec.dsl.span import Span

_RESERVED: Final = frozenset({"AND", "OR", "NOT", "IN", "TRUE", "FALSE", "NONE", "WHERE"})
_STATEMENT_WORDS: Final = (
    *("cite", "catalog", "query", "key", "value", "input", "param", "const", "axis", "blocks"),
    *("index", "grid", "let", "mask", "score", "weight", "gate", "output", "return", "causal"),
    *("require", "state", "step"),
)
# Terminals by name, in the order in which a message lists them.
_WORDS: Final = {
    "STRING": "a text in double quotes",
    "DOUBLE_SLASH": "`//`",
    "LPAR": "`(`",
    "LSQB": "`[`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "INT": "`int`",
    "BOOL": "`bool`",
    "FLOAT": "`float`",
    "OVER": "`over`",
    "REVERSE": "`reverse`",
    "EQUAL": "`=`",
    "WHERE": "`where`",
    "NONE": "`none`",
    "RPAR": "`)`",
    "RSQB": "`]`",
    "_NL": "the end of the line",
}
_INSTEAD: Final = {
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not`, or `!=`",
    "^": "write `**` for a power",
    "{": "group with `(` and `)`",
    "}": "group with `(` and `)`",
    ";": "write one statement a line",
    "\\": "a line goes on inside brackets: put the expression in `(` and `)`",
    "'": 'texts stand in double quotes: `"..."`',
    "\u2264": "write `<=`",
    "\u2265": "write `>=`",
    "\u2260": "write `!=`",
    "\u2212": "write `-`",
    "\u00d7": "write `*`",
    "\u00b7": "write `*`",
    "\u00a0": "this is not a plain space: write one",
}


def unexpected_character(char: str, span: Span) -> Diagnostic:
    """A character that starts nothing."""
    other = "names are ASCII letters, digits and `_`" if char.isalpha() else "delete it"
    help = _INSTEAD.get(char, other)
    return Diagnostic(
        "A006", "error", f"unexpected character `{char}`", span, "means nothing here", help
    )


def unexpected_token(token: Token, span: Span, accepts: Set[str]) -> Diagnostic:
    """`token`, where the parser would take only the terminals `accepts`."""
    if "ATTENTION" in accepts:
        return Diagnostic(
            "A009",
            "error",
            "the `attention` line is missing",
            span,
            "a spec starts with its name",
            "write `attention NAME` first",
        )
    if "LET" in accepts:
        return _not_a_statement(token, span)
    if token.type in _RESERVED and "NAME" in accepts and "NUMBER" not in accepts:
        return Diagnostic(
            "A016",
            "error",
            f"`{token}` is a reserved word",
            span,
            "expected a name",
            "choose another name",
        )
    title = "the line ends too early" if token.type == "_NL" else f"unexpected {_word(token)}"
    label = f"expected {_either(_expected(accepts))}"
    return Diagnostic("A017", "error", title, span, label, _help(token, accepts))


def _not_a_statement(token: Token, span: Span) -> Diagnostic:
    if token == "attention":
        title, label = "a second `attention` line", "a file holds one spec"
        help = "give each spec a file of its own"
    elif token.type == "DOC":
        title, label = "a docstring in the wrong place", "belongs under the `attention` line"
        help = "move it there, or start a comment with `#`"
    else:
        title, label = f"no statement starts with {_word(token)}", "expected a statement"
        close = get_close_matches(str(token), _STATEMENT_WORDS, 1)
        named = "to name something, write `let NAME = ...`"
        help = f"did you mean `{close[0]}`?" if close else named
    return Diagnostic("A015", "error", title, span, label, help)


def _word(token: Token) -> str:
    names = {"NUMBER": "number ", "DOC": "docstring", "STRING": "text"}
    kind = names.get(token.type, "")
    return kind if kind and not kind.endswith(" ") else f"{kind}`{token}`"


def _expected(accepts: Set[str]) -> list[str]:
    words = []
    hidden: set[str] = set()
    if "NUMBER" in accepts:
        words.append("an expression")
        hidden |= {"LPAR", "WHERE"}
    elif "NAME" in accepts:
        words.append("a name")
    if "STAR" in accepts:
        words.append("an operator")
        hidden |= {"LPAR", "LSQB", "DOUBLE_SLASH", "EQUAL"}
    return words + [word for name, word in _WORDS.items() if name in accepts - hidden]


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _help(token: Token, accepts: Set[str]) -> str:
    if token.type == "EQUAL" and "COMPARISON" in accepts:
        return "compare with `==`"
    if token.type == "LSQB" and "STAR" in accepts:
        return "only a name takes indices: name the expression with `let`"
    if token.type == "LPAR" and "STAR" in accepts:
        return "only a name is called; a product needs `*`"
    if token in ("over", "reverse"):
        return f"in a `state`, write `{token}` before the `=`"
    if token.type == "_NL":
        return "finish the statement; a line goes on only inside brackets"
    if token.type == "COMMA" and "RPAR" in accepts:
        return "a tuple stands only after `over=`, as in `over=(u, w)`"
    if "STAR" in accepts:
        return "put an operator in front of it, or delete it"
    if "EQUAL" in accepts:
        return "write `=` in front of it, or delete it"
    return f"write {_either(_expected(accepts))} here"
