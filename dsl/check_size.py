"""Limits on what an expression is, written out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attnspec.dsl.ast import Expr, Spec, children
from attnspec.dsl.build import constant
from attnspec.dsl.check_report import Report
from attnspec.dsl.span import Span

if TYPE_CHECKING:
    from attnspec.dsl.check_expr import Elaborator

MAX_NODES = 20_000
MAX_ELEMENTS = 2**31


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


def check_sizes(spec: Spec, report: Report) -> None:
    """Refuse tensors whose fixed axes alone are too large."""
    fixed: dict[str, int] = {}
    for axis in spec.axes:
        size = constant(axis.size) if axis.size is not None else None
        if isinstance(size, int) and axis.role not in ("block", "alias"):
            fixed[axis.name] = size
    tensors = [(d.name, d.axes, d.span) for d in spec.decls]
    tensors += [(d.name, d.axes, d.span) for d in spec.defs]
    tensors += [(d.name, d.axes, d.span) for d in spec.states]
    for name, axes, span in tensors:
        elements = math.prod(fixed.get(axis, 1) for axis in axes)
        if elements > MAX_ELEMENTS:
            report.error(
                "A110",
                f"`{name}` is too large",
                span,
                f"its fixed axes hold {elements} elements",
                f"a tensor holds at most {MAX_ELEMENTS} over them: make an axis smaller",
            )
