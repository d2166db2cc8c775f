"""What depends on the batch and heads of the mask: each reduction over pairs that it allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attnspec.dsl.ast import Def, Expr, Normalize, Read, Reduce, walk

_SPREAD = ("b", "h")


def lacking(defs: Iterable[Def], mask: Expr | None) -> dict[str, tuple[str, ...]]:
    """Of each definition that depends on `b` or `h` without having the axis, which of these; `defs`
    stand in dependency order."""
    found: dict[str, tuple[str, ...]] = {}
    for each in defs:
        if more := missing(each.expr, each.axes, mask, found):
            found[each.name] = more
    return found


def missing(
    expr: Expr, axes: tuple[str, ...], mask: Expr | None, found: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Those of `b` and `h` that `expr` depends on and that are not among `axes`; `found` is what
    definitions lack."""
    needs = set(expr.free)
    for node in walk(expr):
        if isinstance(node, Read):
            needs.update(found.get(node.name, ()))
        elif isinstance(node, Reduce | Normalize) and node.mask is not None and mask is not None:
            needs |= mask.free
    return tuple(axis for axis in _SPREAD if axis in needs and axis not in axes)
