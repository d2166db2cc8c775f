"""What depends on the batch and heads of the mask: each reduction over pairs that it allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attnspec.dsl.ast import Def, Expr, Normalize, Read, Reduce, children

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
    allowed = frozenset() if mask is None else mask.free
    seen: dict[int, frozenset[str]] = {}

    def unseen(node: Expr) -> frozenset[str]:
        """What `node` depends on beside its free variables."""
        if id(node) in seen:
            return seen[id(node)]
        needs = frozenset().union(*map(unseen, children(node)))
        match node:
            case Read(name=name):
                needs |= frozenset(found.get(name, ()))
            case Normalize(mask=(_, _)):
                needs |= allowed
            case Reduce(axes=bound):
                needs = (needs | allowed if node.mask else needs) - set(bound)
        seen[id(node)] = needs
        return needs

    needs = expr.free | unseen(expr)
    return tuple(axis for axis in _SPREAD if axis in needs and axis not in axes)
