"""Values that a pair looks up: of one token at most, at further indices that depend on both tokens.

`dot(q[i], r[i - j])` is a table over the rows of `r` for each query, read at i - j: the host makes
the table, by one matrix product, and the tile reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.plan_types import Unsupported
from attnspec.dsl.analysis.positions import rebuild
from attnspec.dsl.analysis.score import slope
from attnspec.dsl.ast import (
    Apply,
    Contract,
    Expr,
    Index,
    Kind,
    Normalize,
    Read,
    Reduce,
    Role,
    Spec,
    walk,
)

OPEN = {Role.CHANNEL, Role.BLOCK}  # axes that are no tokens, and so may be a table's


@dataclass(frozen=True, slots=True)
class Lookup:
    """`table`, a value over at most one token and the axes of `places`, read at their indices by a
    `row` and a `column`."""

    table: Expr
    places: tuple[tuple[str, Expr], ...]
    row: str
    column: str

    @property
    def token(self) -> str:
        """The token that has a table of its own; empty for one table a head."""
        return "".join(a for a in (self.row, self.column) if a in self.table.free)

    @property
    def repeated(self) -> tuple[Expr, ...] | None:
        """The entries that two pairs of the token may both read; None where that may be any."""
        other = {self.row: self.column, self.column: self.row}.get(self.token, "")
        return repeated(self.places, self.token, other) if other else None


def repeated(
    places: tuple[tuple[str, Expr], ...], token: str, other: str
) -> tuple[Expr, ...] | None:
    """The entries that two pairs of `token` may share, each with an `other` of its own; None where
    that may be any."""
    found = [_repeated(at, other, frozenset({token, other})) for _, at in places]
    if len(found) > 1:  # one index that never returns makes the whole distinct
        found = [() for ends in found if ends == ()]
    return found[0] if found else None


def _repeated(at: Expr, other: str, pair: frozenset[str]) -> tuple[Expr, ...] | None:
    """The values that an index may take for more than one position `other`."""
    step = slope(at, other)
    if step is not None:
        return () if step else None
    match at:
        case Apply(op="clamp", args=(inner, *ends)):
            pass
        case Apply(op=("min" | "max"), args=(inner, end)) if not end.free & pair:
            ends = [end]
        case Apply(op=("min" | "max"), args=(end, inner)):
            ends = [end]
        case Apply(op=("add" | "sub") as op, args=(inner, shift)) if not shift.free & pair:
            found = _repeated(inner, other, pair)
            return found and tuple(Apply(op, (end, shift), kind=Kind.INT) for end in found)
        case _:
            return None
    found = _repeated(inner, other, pair)
    return None if found is None or any(end.free & pair for end in ends) else (*found, *ends)


def table(spec: Spec, expr: Expr, row: str, column: str) -> Lookup:
    """`expr`, a number or a vector of both tokens, as a table; `Unsupported` where it is none. Its
    channels stay as they are."""
    pair = frozenset({row, column})
    places: dict[str, Expr] = {}

    def opened(node: Expr) -> Expr:
        if not node.free >= pair:
            return node
        if isinstance(node, Read):
            return _opened(spec, node, pair, places)
        return rebuild(node, opened)

    found = Lookup(opened(expr), tuple(places.items()), row, column)
    runs = (n for n in walk(found.table) if isinstance(n, Reduce | Contract | Normalize))
    bound = {axis for n in runs for axis in n.axes}
    if found.table.free >= pair or any(axis in expr.free | bound for axis in places):
        raise Unsupported("a dot product whose two sides both depend on both tokens")
    return found


def _opened(spec: Spec, read: Read, pair: frozenset[str], places: dict[str, Expr]) -> Read:
    """`read` with a variable of its own for every index that is a function of tokens; `places`
    learns which."""
    decl, found = spec.decl(read.name), spec.definition(read.name)
    if read.pad is not None or (decl is None and found is None):
        raise Unsupported(f"`{read.name}` is read at an index of both tokens")
    index = []
    for axis, at in zip((decl or found).axes, read.index, strict=True):  # type: ignore[union-attr]
        own = isinstance(at, Index) and at.axis == axis
        if own or not at.free & pair:
            index.append(at)
            continue
        if spec.axis(axis).role not in OPEN:
            raise Unsupported(f"`{read.name}` is read at a token that depends on both")
        if places.setdefault(axis, at) != at:
            raise Unsupported(f"`{read.name}` is read at two places at once")
        index.append(Index(axis, kind=Kind.INT))
    return Read(read.name, tuple(index), kind=read.kind, span=read.span)
