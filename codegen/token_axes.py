"""Token axes: which an expression runs over, and expressions at other index variables."""

from __future__ import annotations

from dataclasses import replace

from attnspec.codegen.host_values import TOKENS
from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.rewrite_ranks import CUTOFF
from attnspec.dsl.analysis.positions import rebuild
from attnspec.dsl.ast import (
    Coord,
    Cumsum,
    Expr,
    Index,
    Kind,
    Normalize,
    Random,
    Rank,
    Reduce,
    Role,
    Spec,
)


def tokens(spec: Spec, axes: frozenset[str]) -> frozenset[str]:
    """The token axes among `axes`, second indices over one included."""
    return frozenset(a for a in axes if spec.axis(base(spec, a)).role in TOKENS)


def base(spec: Spec, axis: str) -> str:
    """The axis that an index variable runs over."""
    found = spec.axis(axis)
    return base(spec, found.base) if found.role is Role.ALIAS and found.base else axis


def over_pairs(spec: Spec, node: Expr) -> bool:
    """Whether a reduction or normaliser runs over pairs of tokens."""
    match node:
        case Reduce(op=op) if op == CUTOFF:
            return False
        case Rank():
            return len(tokens(spec, node.free)) > 1
        case Reduce(axes=axes, mask=mask, body=body, where=where):
            parts = [body.free, frozenset(axes), frozenset(mask or ())]
            parts.append(frozenset() if where is None else where.free)
            run = tokens(spec, frozenset(axes))
            return bool(run) and len(tokens(spec, frozenset().union(*parts))) > 1
        case Normalize(axes=axes):
            return bool(tokens(spec, frozenset(axes))) and len(tokens(spec, node.free)) > 1
    return False


def ends(spec: Spec, axis: str) -> tuple[Expr, Expr]:
    """The first and the last position of a token axis."""
    run = base(spec, axis)
    first, last = (
        Reduce(op, (run,), Index(run, kind=Kind.INT), kind=Kind.INT) for op in ("amin", "amax")
    )
    return first, last


def renamed(expr: Expr, names: dict[str, str]) -> Expr:
    """`expr` with index variables called otherwise, all at once."""
    names = {old: new for old, new in names.items() if old != new}
    if not names.keys() & expr.free:
        return expr

    def pair(mask: tuple[str, str]) -> tuple[str, str]:
        row, column = (names.get(m, m) for m in mask)
        return row, column

    def visit(node: Expr) -> Expr:
        if not names.keys() & node.free:
            return node
        match node:
            case Index(axis=axis):
                return replace(node, axis=names[axis])
            case Coord(axis=axis):
                return replace(node, axis=names[axis])
            case Reduce(axes=axes, mask=mask) | Normalize(axes=axes, mask=mask):
                if (names.keys() | set(names.values())) & set(axes):
                    raise Unsupported("a reduction at other indices than its own")
                built = rebuild(node, visit)
                assert isinstance(built, Reduce | Normalize)
                return built if mask is None else replace(built, mask=pair(mask))
            case Cumsum(axis=axis) | Rank(axis=axis) if axis in names or axis in names.values():
                raise Unsupported("a running sum at other indices than its own")
            case Random(row=row, column=column):
                built = rebuild(node, visit)
                assert isinstance(built, Random)
                row, column = pair((row, column))
                return replace(built, row=row, column=column)
        return rebuild(node, visit)

    return visit(expr)
