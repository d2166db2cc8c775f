"""A condition, or its opposite, by its logic down to what is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from attnspec.dsl.ast import Apply, Expr, Kind

T = TypeVar("T")
Chances: TypeAlias = "tuple[Expr, Expr]"  # of a condition over a tile: possible, certain


def logic(
    expr: Expr,
    holds: bool,
    read: Callable[[Expr, bool], T],
    every: Callable[[Sequence[T]], T],
    some: Callable[[Sequence[T]], T],
) -> T | None:
    """What `every` and `some` make of what is read of the parts; None where there are none.

    An opposite is read of the parts, so that `read` meets it in comparisons and values alone. Two
    readings of each side of an `==` double with every level: `read` must know what it has read.
    """

    def chosen(c: Expr, a: tuple[Expr, bool], b: tuple[Expr, bool]) -> T:
        return some([every([read(c, True), read(*a)]), every([read(c, False), read(*b)])])

    match expr:
        case Apply(op=("and" | "or") as op, args=args):
            return (every if (op == "and") is holds else some)([read(arg, holds) for arg in args])
        case Apply(op="not", args=(inner,)):
            return read(inner, not holds)
        case Apply(op="where", args=(c, a, b)) if expr.kind is Kind.BOOL:
            return chosen(c, (a, holds), (b, holds))
        case Apply(op=("eq" | "ne") as op, args=(a, b)) if a.kind is Kind.BOOL:
            same = (op == "eq") is holds
            return chosen(a, (b, same), (b, not same))
    return None
