"""Text to surface tree: the grammar is `grammar.lark`, every failure an `AttnError`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Any

import lark
from lark import Lark, Token, UnexpectedCharacters, UnexpectedToken
from lark.lark import PostLex

from attnspec.dsl import syntax
from attnspec.dsl.diagnostics import AttnError, Diagnostic
from attnspec.dsl.limits import EXPRESSION_DEPTH, EXPRESSION_NODES, STATEMENT_TOKENS
from attnspec.dsl.scan import locate, scan
from attnspec.dsl.surface import RefusedError, Surface, span_of
from attnspec.dsl.unexpected import unexpected_character, unexpected_token
from attnspec.store import keep, key_of


def parse(text: str, path: str = "<spec>.attn") -> syntax.File:
    """The surface tree of one spec; AttnError (codes A0xx) when `text` is none."""
    found = scan(text)
    if found is not None:
        raise _refusal(found, text, path)
    parser: Any = _parser().parse_interactive(text)  # Lark does not type its methods
    try:
        parser.exhaust_lexer()
        tree: syntax.File = parser.feed_eof()
    except UnexpectedToken as error:
        token = error.token
        found = unexpected_token(token, span_of(token), parser.accepts())
        raise _refusal(found, text, path) from None
    except UnexpectedCharacters as error:
        at = error.pos_in_stream or 0
        found = unexpected_character(text[at], locate(text, at, at + 1))
        raise _refusal(found, text, path) from None
    except RefusedError as error:
        raise _refusal(error.diagnostic, text, path) from None
    found = _too_much(tree)
    if found is not None:
        raise _refusal(found, text, path)
    return replace(tree, text=text, path=path)


def _refusal(found: Diagnostic, text: str, path: str) -> AttnError:
    return AttnError(found.title, (found,), text=text, path=path)


class _Lines(PostLex):
    """Drops newlines inside brackets and between statements; every statement ends with one."""

    always_accept = ("_NL",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        depth = count = 0
        last: Token | None = None
        for token in stream:
            if token.type == "_NL":
                if last is not None and depth == 0:
                    yield _end_of_line(last)
                    last, count = None, 0
                continue
            count += 1
            if count > STATEMENT_TOKENS:
                raise RefusedError(
                    "A011",
                    "a statement is too large",
                    span_of(token),
                    f"more than {STATEMENT_TOKENS} words and signs",
                    "give long tables at the call, and name parts with `let`",
                )
            depth += (token.type in ("LPAR", "LSQB")) - (token.type in ("RPAR", "RSQB"))
            last = token
            yield token
        if last is not None:
            yield _end_of_line(last)


def _end_of_line(last: Token) -> Token:
    """The newline after `last`, as if it stood right behind it."""
    at, line, column = last.end_pos, last.end_line, last.end_column
    return Token("_NL", "\n", at, line, column, line, column, at)


@cache
def _parser() -> Lark:
    """Lark's parser, whose tables take longer to work out than all texts to parse."""
    grammar = files("attnspec.dsl").joinpath("grammar.lark").read_text(encoding="utf-8")
    key = key_of(grammar, lark.__version__, sys.version)
    return Lark.load(BytesIO(keep("grammars", key, "tables", lambda: _tables(grammar))))


def _tables(grammar: str) -> bytes:
    """A parser as Lark saves it."""
    parser = Lark(
        grammar,
        parser="lalr",
        lexer="contextual",
        start="file",
        postlex=_Lines(),
        transformer=Surface(),
        maybe_placeholders=True,
    )
    saved = BytesIO()
    parser.save(saved)
    return saved.getvalue()


def _too_much(tree: syntax.File) -> Diagnostic | None:
    for statement in tree.statements:
        count = 0
        stack: list[tuple[syntax.Node, int]] = [(statement, -1)]
        while stack:
            node, depth = stack.pop()
            count += 1
            if depth > EXPRESSION_DEPTH:
                return Diagnostic(
                    "A010",
                    "error",
                    "an expression is nested too deep",
                    statement.span,
                    f"more than {EXPRESSION_DEPTH} operations inside one another",
                    "name a part of it with `let`",
                )
            if count > EXPRESSION_NODES:
                return Diagnostic(
                    "A011",
                    "error",
                    "a statement is too large",
                    statement.span,
                    f"more than {EXPRESSION_NODES} names, numbers and operations",
                    "give long tables at the call, and name parts with `let`",
                )
            stack.extend((child, depth + 1) for child in _children(node))
    return None


def _children(node: syntax.Node) -> Iterator[syntax.Node]:
    for field in fields(node):
        value = getattr(node, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, syntax.Node):
                yield item
