"""Sums over tokens of what is mixed over another axis: the mixture of the sums."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnspec.codegen.channel_forms import few
from attnspec.codegen.terms import ONE, both, factors_in, times
from attnspec.codegen.token_axes import base, over_pairs, tokens
from attnspec.dsl.ast import Apply, Contract, Expr, Kind, Reduce, Role, Spec, walk


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
        if over_pairs(spec, n) or (isinstance(n, Contract) and not _written(spec, n))
    )


def _written(spec: Spec, node: Contract) -> bool:
    """Whether a tile writes out a sum over channels."""
    pairs = any(len(tokens(spec, side.free)) > 1 for side in (node.left, node.right))
    return pairs and few(spec, node.axes)


@dataclass(frozen=True, slots=True)
class Outer:
    """A vector for every pair that is a sum over `axes` of numbers of the pair, `left`, times
    vectors that a sum does not run over, `right`."""

    axes: tuple[str, ...]
    left: Expr
    right: Expr


def pulled_out(spec: Spec, node: Reduce, factor: Expr) -> Outer | None:
    """A factor of what a sum adds up whose vectors need not be made for every pair."""
    match factor:
        case Contract(axes=axes, left=left, right=right):
            for one, other in ((left, right), (right, left)):
                vectors = other.free - {"b", "h", *axes} - tokens(spec, other.free)
                if len(tokens(spec, one.free)) > 1 and vectors and not set(node.axes) & other.free:
                    return Outer(axes, one, other)
            parts, where = [*factors_in(left), *factors_in(right)], None
        case Reduce(op="sum", axes=axes, body=body, where=where) if not tokens(
            spec, frozenset(axes)
        ):
            parts = factors_in(body)
        case _:
            return None
    if {spec.axis(axis).role for axis in axes} - {Role.CHANNEL, Role.CONCAT}:
        return None
    for place, part in enumerate(parts):
        found = pulled_out(spec, node, part)
        rest = [*parts[:place], *parts[place + 1 :]]
        if found is None or set(axes) & (found.right.free | set(found.axes)):
            continue
        if not set(found.axes) & times([ONE, *rest]).free:
            total = Reduce("sum", axes, times([*rest, found.left]), where, kind=Kind.FLOAT)
            return replace(found, left=total)
    return None
