"""Elaborating what is said of vectors: products, norms, rotations, concatenation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnspec.dsl import build
from attnspec.dsl import syntax as s
from attnspec.dsl.ast import Concat, Contract, Expr, Kind, Reduce, Rope
from attnspec.dsl.check_arguments import count, options
from attnspec.dsl.check_scope import Scope
from attnspec.dsl.span import Span

if TYPE_CHECKING:
    from attnspec.dsl.check_expr import Elaborator


def contract(el: Elaborator, left: Expr, right: Expr, span: Span, scope: Scope) -> Expr:
    """`dot` and `@`: the sum over the one channel axis that both share."""
    a, b = el.vector_axes(left, scope), el.vector_axes(right, scope)
    shared = [axis for axis in a if axis in b]
    if not shared:
        soft = el.soft_axes(right, scope)
        shared = [axis for axis in el.soft_axes(left, scope) if axis in soft]
    if len(shared) != 1:
        label = f"left over {_axes(a)}, right over {_axes(b)}"
        title = "more than one shared channel axis" if shared else "no shared channel axis"
        raise el.report.error(
            "A108",
            title,
            span,
            label,
            "relabel an axis, as in `q[i, e]`, or name it in a `sum`, as in `sum(d, …)`",
        )
    for part in (left, right):
        el.numeric(part, "a product")
    return Contract((shared[0],), left, right, kind=_product(left, right), span=span)


def one_vector_axis(el: Elaborator, expr: Expr, what: str, scope: Scope) -> str:
    """The only vector axis of `expr`."""
    axes = el.vector_axes(expr, scope) or el.soft_axes(expr, scope)
    if len(axes) != 1:
        raise el.report.error(
            "A108",
            f"`{what}` needs a vector",
            expr.span,
            f"this is over {_axes(axes)}",
            "give it an expression over exactly one channel axis",
        )
    return axes[0]


def _axes(axes: tuple[str, ...]) -> str:
    return ", ".join(f"`{axis}`" for axis in axes) or "no channel axis"


def _product(left: Expr, right: Expr) -> Kind:
    both_int = left.kind is Kind.INT and right.kind is Kind.INT
    return Kind.INT if both_int else Kind.FLOAT


def dot(el: Elaborator, node: s.Call, scope: Scope) -> Expr:
    """`dot(x, y)`."""
    count(el, node, 2, 2)
    left, right = el.exprs(node.args, scope)
    return contract(el, left, right, node.span, scope)


def outer(el: Elaborator, node: s.Call, scope: Scope) -> Expr:
    """`outer(x, y)`: a product over two different axes."""
    count(el, node, 2, 2)
    left, right = el.exprs(node.args, scope)
    a, b = (el.vector_axes(x, scope) + el.soft_axes(x, scope) for x in (left, right))
    if not a or not b or set(a) & set(b):
        raise el.report.error(
            "A108",
            "`outer` needs two vectors over different axes",
            node.span,
            f"left over {', '.join(a) or 'none'}, right over {', '.join(b) or 'none'}",
            "relabel one of them, as in `k[t, e]`",
        )
    return build.apply("mul", left, right, span=node.span)


def norm(el: Elaborator, node: s.Call, scope: Scope) -> Expr:
    """`norm2`, `norm`, `normalize` and `rmsnorm`, written out."""
    count(el, node, 1, 1)
    (x,) = el.exprs(node.args, scope)
    el.numeric(x, f"`{node.func}`")
    axis = one_vector_axis(el, x, node.func, scope)
    span = node.span
    if node.func == "rmsnorm":
        square = build.apply("mul", x, x, span=span)
        mean = Reduce("mean", (axis,), square, kind=Kind.FLOAT, span=span)
        shifted = build.apply("add", mean, build.lit(1e-6, span), span=span)
        return build.apply("mul", x, build.apply("rsqrt", shifted, span=span), span=span)
    norm2 = Contract((axis,), x, x, kind=x.kind, span=span)
    if node.func == "norm2":
        return norm2
    if node.func == "normalize":
        floor = build.apply("max", norm2, build.lit(1e-24, span), span=span)
        return build.apply("mul", x, build.apply("rsqrt", floor, span=span), span=span)
    positive = build.apply("gt", norm2, build.lit(0, span), span=span)
    root = build.apply("sqrt", norm2, span=span)
    return build.apply("where", positive, root, build.lit(0.0, span), span=span)


def concat(el: Elaborator, node: s.Call, scope: Scope) -> Expr:
    """`concat(x, …)`: channels one after another, on an axis named after the parts."""
    count(el, node, 2, 99)
    values = el.exprs(node.args, scope)
    parts = []
    for value in values:
        el.numeric(value, "`concat`")
        parts.append((one_vector_axis(el, value, "concat", scope), value))
    names = tuple(axis for axis, _ in parts)
    axis = "+".join(names)
    el.concats[axis] = names
    return Concat(axis, tuple(parts), kind=Kind.FLOAT, span=node.span)


def rope(el: Elaborator, node: s.Call, scope: Scope) -> Expr:
    """`rope(x, p, …, base=10000)`."""
    count(el, node, 2, 99, "base")
    x, *positions = el.exprs(node.args, scope)
    for part in (x, *positions):
        el.numeric(part, "`rope`")
    axis = one_vector_axis(el, x, "rope", scope)
    for position in positions:
        if axis in position.free:
            raise el.report.error(
                "A108", "a position is a scalar", position.span, f"over `{axis}`", "name a channel"
            )
    given = options(node).get("base")
    base = build.lit(10000.0, node.span) if given is None else el.expr(given, scope)
    el.numeric(base, "`rope`")
    return Rope(x, axis, tuple(positions), base, kind=Kind.FLOAT, span=node.span)
