"""Limits on what an expression is, written out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attnspec.dsl.ast import Expr, Role, Size, Spec, children, walk
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


def check_known_sizes(spec: Spec, report: Report) -> None:
    """Refuse the size of a channel axis that no argument has: a call could not tell it."""
    known = {axis for decl in spec.decls for axis in decl.axes}
    known |= {axis for pair in spec.equal_sizes if known & set(pair) for axis in pair}
    open_ = {a.name for a in spec.axes if a.role is Role.CHANNEL and a.size is None} - known
    wholes = [d.expr for d in spec.defs] + [r.expr for r in spec.returns]
    wholes += [e for e in (spec.mask, spec.output, *spec.requires) if e is not None]
    wholes += [e for state in spec.states for e in (state.init, state.step)]
    for node in (n for whole in wholes for n in walk(whole)):
        if isinstance(node, Size) and node.of in open_:
            shown = {"d": "D", "e": "E"}.get(node.of, f"size({node.of})")
            report.error(
                "A104",
                f"nothing has the size `{shown}`",
                node.span,
                f"no argument has the axis `{node.of}`",
                f"use an axis of the arguments, or give `{node.of}` to one of them",
            )
