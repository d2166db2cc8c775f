"""Sums over tokens of what is mixed over another axis: the mixture of the sums."""

from __future__ import annotations

from dataclasses import replace

from attnspec.codegen.terms import ONE, both, factors_in, times
from attnspec.codegen.token_axes import base, over_pairs, tokens
from attnspec.dsl.ast import Apply, Contract, Expr, Kind, Reduce, Spec, walk


def spread_out(spec: Spec, node: Reduce) -> Expr | None:
    """A sum over tokens of what is mixed over another axis, heads say, as the mixture of the
    sums; and of a choice that holds such a mixture as the sum of both sides."""
    factors = factors_in(node.body)
    conditions = [node.where, None if node.mask is None else spec.mask]
    held = frozenset().union(*(x.free for x in conditions if x is not None))
    for place, factor in enumerate(factors):
        rest = [*factors[:place], *factors[place + 1 :]]
        match factor:
            case Reduce(op="sum" | "mean" as op, axes=axes, where=where) if _mixes(spec, factor):
                choice = frozenset() if where is None else where.free
                others = held | times([ONE, *rest]).free
                if set(node.axes) & choice or set(axes) & others:
                    continue
                inner = replace(node, body=times([factor.body, *rest]))
                return Reduce(op, axes, inner, where, kind=Kind.FLOAT)
            case Apply(op="where", args=(chosen, *sides)) if _holds(spec, factor):
                otherwise = Apply("not", (chosen,), kind=Kind.BOOL)
                found = (
                    replace(node, body=times([side, *rest]), where=both(node.where, condition))
                    for side, condition in zip(sides, (chosen, otherwise), strict=True)
                )
                return Apply("add", tuple(found), kind=Kind.FLOAT)
    return None


def _holds(spec: Spec, expr: Expr) -> bool:
    return any(isinstance(n, Reduce) and _mixes(spec, n) for n in walk(expr))


def _mixes(spec: Spec, node: Reduce) -> bool:
    """Whether a reduction over other axes than tokens runs over heads, over what passes compute, or
    over products of a query and a key, for each of its indices."""
    run = frozenset(node.axes)
    if tokens(spec, run):
        return False
    if any(base(spec, axis) == "h" for axis in run) and len(tokens(spec, node.free)) > 1:
        return True
    return any(
        run & n.free and len(tokens(spec, n.free)) > 1
        for n in walk(node.body)
        if isinstance(n, Contract) or over_pairs(spec, n)
    )
