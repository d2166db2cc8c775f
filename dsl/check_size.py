"""Limits on what an expression is, written out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnspec.dsl.ast import Expr, children
from attnspec.dsl.span import Span

if TYPE_CHECKING:
    from attnspec.dsl.check_expr import Elaborator

MAX_NODES = 20_000


def tree_size(expr: Expr) -> int:
    """The number of nodes of `expr` as a tree, shared ones counted each time."""
    sizes: dict[int, int] = {}
    stack = [expr]
    while stack:
        node = stack[-1]
        if id(node) in sizes:
            stack.pop()
            continue
        missing = [child for child in children(node) if id(child) not in sizes]
        if missing:
            stack.extend(missing)
        else:
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children(node))
            stack.pop()
    return sizes[id(expr)]


def check_size(el: Elaborator, expr: Expr, span: Span) -> None:
    """Refuse an expression that is too large when it is written out."""
    if tree_size(expr) > MAX_NODES:
        raise el.too_large(span)
