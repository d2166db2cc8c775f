"""Surface nodes from the grammar's rules: one method a rule, named like it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from inspect import cleandoc
from typing import Any, Final

from lark import Token, Transformer, v_args

from attnspec.dsl import syntax as s
from attnspec.dsl.diagnostics import Diagnostic
from attnspec.dsl.limits import LARGEST_INT, NAME_LENGTH, STATEMENTS
from attnspec.dsl.span import NOWHERE, Span

_INT: Final = re.compile(r"0|[1-9][0-9]*")
_FLOAT: Final = re.compile(r"([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+")


class RefusedError(Exception):
    """A node that may not be built."""

    def __init__(self, code: str, title: str, span: Span, label: str, help: str) -> None:
        super().__init__(title)
        self.diagnostic = Diagnostic(code, "error", title, span, label, help)


def span_of(token: Token) -> Span:
    """Where `token` stands."""
    start, line, column = token.start_pos or 0, token.line or 1, token.column or 1
    return Span(
        start,
        token.end_pos or start,
        line,
        column,
        token.end_line or line,
        token.end_column or column,
    )


def _join(first: Token | s.Node, *parts: Token | s.Node | None) -> Span:
    """From the start of `first` to the end of the last part that is there."""
    last = next((part for part in reversed(parts) if part is not None), first)
    start = span_of(first) if isinstance(first, Token) else first.span
    end = span_of(last) if isinstance(last, Token) else last.span
    return Span(start.start, end.end, start.line, start.column, end.end_line, end.end_column)


def _spans(tokens: Iterable[Token]) -> tuple[Span, ...]:
    return tuple(span_of(token) for token in tokens)


def _words(tokens: Iterable[Token]) -> tuple[str, ...]:
    return tuple(str(token) for token in tokens)


@v_args(inline=True)
class Surface(Transformer[Token, s.File]):
    """Called for every rule as soon as it is complete, so that nothing recurses."""

    def NAME(self, token: Token) -> Token:  # noqa: N802  (called for every token NAME)
        if len(token) > NAME_LENGTH:
            raise RefusedError(
                "A008",
                "a name is too long",
                span_of(token),
                f"{len(token)} characters, at most {NAME_LENGTH}",
                "shorten it",
            )
        return token

    def file(self, word: Token, name: Token, doc: Token | None, *lines: s.Statement) -> s.File:
        if len(lines) > STATEMENTS:
            raise RefusedError(
                "A012",
                "the file has too many statements",
                lines[STATEMENTS].span,
                f"statement {STATEMENTS + 1}, at most {STATEMENTS} are read",
                "write one mechanism a file",
            )
        text = "" if doc is None else cleandoc(doc[3:-3].replace("\r", ""))
        return s.File(
            str(name), span_of(name), text, lines, "", "", span=_join(word, name, doc, *lines[-1:])
        )

    # Statements

    def cite(self, word: Token, *texts: Token) -> s.Cite:
        return s.Cite(tuple(text[1:-1] for text in texts), span=_join(word, *texts))

    def catalog(self, word: Token, *texts: Token) -> s.Catalog:
        return s.Catalog(tuple(text[1:-1] for text in texts), span=_join(word, *texts))

    def declare(
        self,
        form: Token,
        name: Token,
        _open: Token | None,
        axes: tuple[s.AxisSpec, ...] | None,
        close: Token | None,
        kind: Token | None,
        default: s.Expr | None,
        word: Token | None,
        where: s.Expr | None,
    ) -> s.Declare:
        type_ = None if kind is None else str(kind)
        span = _join(form, name, close, kind, default, where)
        return s.Declare(
            str(form), str(name), span_of(name), axes or (), type_, default, where, span=span
        )

    def axis_decl(self, word: Token, name: Token, size: s.Expr | None) -> s.AxisDecl:
        return s.AxisDecl(str(name), span_of(name), size, span=_join(word, name, size))

    def blocks_decl(self, word: Token, name: Token, base: Token, length: s.Expr) -> s.BlocksDecl:
        span = _join(word, length)
        return s.BlocksDecl(
            str(name), span_of(name), str(base), length, base_span=span_of(base), span=span
        )

    def index_decl(self, word: Token, name: Token, base: Token) -> s.IndexDecl:
        span = _join(word, base)
        return s.IndexDecl(str(name), span_of(name), str(base), base_span=span_of(base), span=span)

    def grid_decl(self, word: Token, side: Token | None, names: tuple[Token, ...]) -> s.GridDecl:
        side_ = None if side is None else str(side)
        return s.GridDecl(side_, _words(names), name_spans=_spans(names), span=_join(word, *names))

    def let(
        self,
        word: Token,
        name: Token,
        _open: Token | None,
        axes: tuple[Token, ...] | None,
        _close: Token | None,
        expr: s.Expr,
    ) -> s.Let:
        return s.Let(
            str(name),
            span_of(name),
            None if axes is None else _words(axes),
            expr,
            axis_spans=_spans(axes or ()),
            span=_join(word, expr),
        )

    def let_function(
        self,
        word: Token,
        name: Token,
        _open: Token,
        params: tuple[Token, ...],
        _close: Token,
        expr: s.Expr,
    ) -> s.LetFunction:
        return s.LetFunction(
            str(name),
            span_of(name),
            _words(params),
            expr,
            param_spans=_spans(params),
            span=_join(word, expr),
        )

    def mask(self, word: Token, expr: s.Expr) -> s.Mask:
        return s.Mask(expr, span=_join(word, expr))

    def clause(self, name: Token, expr: s.Expr | Token) -> s.Clause:
        written = None if isinstance(expr, Token) else expr
        return s.Clause(str(name), span_of(name), written, span=_join(name, expr))

    def return_stmt(
        self,
        word: Token,
        name: Token,
        _open: Token,
        axes: tuple[Token, ...],
        _close: Token,
        expr: s.Expr,
    ) -> s.ReturnStmt:
        span = _join(word, expr)
        return s.ReturnStmt(
            str(name), span_of(name), _words(axes), expr, axis_spans=_spans(axes), span=span
        )

    def causal(self, word: Token) -> s.Causal:
        return s.Causal(span=span_of(word))

    def require(self, word: Token, expr: s.Expr) -> s.Require:
        return s.Require(expr, span=_join(word, expr))

    def state(
        self,
        word: Token,
        name: Token,
        _open: Token | None,
        axes: tuple[Token, ...] | None,
        close: Token | None,
        _over: Token | None,
        over: Token | None,
        reverse: Token | None,
        init: s.Expr | None,
    ) -> s.StateDecl:
        return s.StateDecl(
            str(name),
            span_of(name),
            _words(axes or ()),
            init,
            None if over is None else str(over),
            reverse is not None,
            axis_spans=_spans(axes or ()),
            over_span=NOWHERE if over is None else span_of(over),
            span=_join(word, name, close, over, reverse, init),
        )

    def step(
        self, word: Token, name: Token, _open: Token, axis: Token, _close: Token, expr: s.Expr
    ) -> s.Step:
        span = _join(word, expr)
        return s.Step(str(name), span_of(name), str(axis), expr, axis_span=span_of(axis), span=span)

    # Parts of statements

    def string(self, token: Token) -> Token:
        return token

    def form(self, token: Token) -> Token:
        return token

    def kind(self, token: Token) -> Token:
        return token

    def names(self, *names: Token) -> tuple[Token, ...]:
        return names

    def axes(self, *sizes: s.Expr) -> tuple[s.AxisSpec, ...]:
        return tuple(s.AxisSpec(size, span=size.span) for size in sizes)

    def list(self, first: Token, *rest: Any) -> s.ListLit:
        return s.ListLit(rest[:-1], span=_join(first, rest[-1]))

    # Expressions

    def number(self, token: Token) -> s.Num:
        return s.Num(_number(token), span=span_of(token))

    def boolean(self, token: Token) -> s.Num:
        return s.Num(token == "true", span=span_of(token))

    def name(self, token: Token) -> s.Name:
        return s.Name(str(token), span=span_of(token))

    def attribute(self, name: Token, _dot: Token, coordinate: Token) -> s.Attribute:
        return s.Attribute(str(name), str(coordinate), span=_join(name, coordinate))

    def group(self, first: Token, expr: Any, last: Token) -> s.Expr:
        inner: s.Expr = replace(expr, span=_join(first, last))
        return inner

    def unary(self, op: Token, operand: s.Expr) -> s.Unary:
        return s.Unary(str(op), operand, span=_join(op, operand))

    def binary(self, left: s.Expr, op: Token, right: s.Expr) -> s.Binary:
        return s.Binary(str(op), left, right, span=_join(left, right))

    def comparator(self, token: Token) -> Token:
        return token

    def compare(self, first: s.Expr, *rest: Any) -> s.Compare:
        return s.Compare(first, _words(rest[::2]), rest[1::2], span=_join(first, rest[-1]))

    def call(
        self, name: Token, _open: Token, given: tuple[s.Expr | s.Keyword, ...] | None, close: Token
    ) -> s.Call:
        args, keywords = _arguments(given or ())
        return s.Call(str(name), args, keywords, span=_join(name, close))

    def subscript(
        self, name: Token, _open: Token, given: tuple[s.Expr | s.Keyword, ...], close: Token
    ) -> s.Subscript:
        indices, keywords = _arguments(given)
        return s.Subscript(str(name), indices, keywords, span=_join(name, close))

    def arguments(self, *given: s.Expr | s.Keyword) -> tuple[s.Expr | s.Keyword, ...]:
        return given

    def keyword(self, name: Token, value: s.Expr) -> s.Keyword:
        return s.Keyword(str(name), value, span=_join(name, value))

    def tuple(self, first: Token, *rest: Any) -> s.Tuple:
        items = tuple(item for item in rest[:-1] if item is not None)
        return s.Tuple(items, span=_join(first, rest[-1]))


def _number(token: Token) -> int | float:
    if _INT.fullmatch(token):
        # The length first: Python refuses to convert thousands of digits.
        if len(token) <= len(str(LARGEST_INT)) and int(token) <= LARGEST_INT:
            return int(token)
        label, help = "larger than 2 ** 53", "write it as a float"
    elif _FLOAT.fullmatch(token):
        value = float(token)
        if math.isfinite(value):
            return value
        label, help = "larger than any float64", "write a smaller number"
    elif token.isdecimal():
        label, help = "an int does not start with 0", f"write `{token.lstrip('0') or '0'}`"
    else:
        label, help = "neither an int nor a float", "numbers look like 3, 0.5, 1e-6"
    raise RefusedError("A007", "a number cannot be read", span_of(token), label, help)


def _arguments(
    given: tuple[s.Expr | s.Keyword, ...],
) -> tuple[tuple[s.Expr, ...], tuple[s.Keyword, ...]]:
    """Positional arguments, then keywords, each at most once."""
    args: list[s.Expr] = []
    keywords: dict[str, s.Keyword] = {}
    for item in given:
        if not isinstance(item, s.Keyword):
            if keywords:
                raise RefusedError(
                    "A013",
                    "an argument without a name follows one with a name",
                    item.span,
                    "has no name",
                    "put it before the arguments with names",
                )
            args.append(item)
        elif item.name in keywords:
            raise RefusedError(
                "A014",
                f"`{item.name}=` is given twice",
                item.span,
                "given before",
                "delete one of them",
            )
        else:
            keywords[item.name] = item
    return tuple(args), tuple(keywords.values())
