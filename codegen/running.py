"""Running sums: for each pair the sum over the tokens on one side of its own, along one axis.

`sum(u, x[i, u], where=u > j)` runs along the keys. Keys are cut into short blocks: a tile adds up
what lies in the block of a pair's own key, and reads what the blocks behind that one hold, which a
pass before it has found block by block and the host has added up. Nothing depends on the order in
which tiles are visited, and no sum is the difference of two others.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.rewrite import mask_at
from attnspec.codegen.terms import FIRST, ZERO
from attnspec.codegen.token_axes import base, renamed, tokens
from attnspec.dsl.ast import Apply, Cumsum, Expr, Index, Kind, Reduce, Spec, conjuncts
from attnspec.dsl.build import conjunction

OTHERS = "of_other_blocks"  # takes of a running sum what lies outside the pair's block
# What a comparison of the token that runs with a pair's own says: is it after that, or the same?
_ORDERS = {"lt": (False, False), "le": (False, True), "gt": (True, False), "ge": (True, True)}
_TURNED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


@dataclass(frozen=True, slots=True)
class Running:
    """The sum of `body`, a number of a pair (`other`, `side`), over the tokens of `side` that come
    before the pair's own or `after` it, that one too if it counts its `own`, where `where` holds
    and the mask at `mask` allows the pair."""

    side: str
    other: str
    body: Expr
    where: Expr | None
    mask: tuple[str, str] | None
    after: bool
    own: bool

    def term(self, spec: Spec) -> Expr:
        """What a pair adds to the sums of others: 0 if it takes no part."""
        parts = [] if self.mask is None else [mask_at(spec, self.mask)]
        parts += [] if self.where is None else [self.where]
        kept = conjunction(tuple(parts))
        if kept is None:
            return self.body
        zero = ZERO if self.body.kind is Kind.FLOAT else FIRST
        return Apply("where", (kept, self.body, zero), kind=self.body.kind)


def running(spec: Spec, node: Expr) -> Running | None:
    """The parts of a running sum over pairs; None for anything else."""
    match node:
        case Cumsum(axis=side, body=body, where=where):
            return _found(spec, node, side, side, body, where, None, (False, True))
        case Reduce(op="sum", axes=(run,), body=body, where=where, mask=mask) if where is not None:
            parts = tuple(conjuncts(where))
            for place, part in enumerate(parts):
                order = _order(part, run)
                if order is None or base(spec, order[0]) != base(spec, run):
                    continue
                rest = conjunction(parts[:place] + parts[place + 1 :])
                found = _found(spec, node, run, order[0], body, rest, mask, order[1])
                if found is not None:
                    return found
    return None


def _order(part: Expr, run: str) -> tuple[str, tuple[bool, bool]] | None:
    """The token that the one that runs is compared with, and what that says."""
    match part:
        case Apply(op=op, args=(Index(axis=first), Index(axis=second))) if op in _ORDERS:
            if first == run:
                return second, _ORDERS[op]
            if second == run:
                return first, _ORDERS[_TURNED[op]]
    return None


def _found(
    spec: Spec,
    node: Expr,
    run: str,
    side: str,
    body: Expr,
    where: Expr | None,
    mask: tuple[str, str] | None,
    order: tuple[bool, bool],
) -> Running | None:
    others = tokens(spec, node.free) - {side}
    read = body.free | (frozenset() if where is None else where.free) | frozenset(mask or ())
    if len(others) != 1 or (run != side and side in read):
        return None
    try:
        names = {run: side}
        body = renamed(body, names)
        where = None if where is None else renamed(where, names)
    except Unsupported:
        return None
    if mask is not None:
        mask = (names.get(mask[0], mask[0]), names.get(mask[1], mask[1]))
    (other,) = others
    return Running(side, other, body, where, mask, *order)
