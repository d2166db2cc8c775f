"""Does the mask leave a row empty? A sum over an empty row is 0, and must not be divided by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnspec.dsl.ast import Apply, Expr, Read, walk
from attnspec.dsl.build import apply, index, lit, size, substitute

if TYPE_CHECKING:
    from attnspec.dsl.check_known import Known
    from attnspec.dsl.check_prover import Prover


def every_row_has_a_pair(prover: Prover) -> bool:
    """Whether every query has a pair: the key j = 0, or j = i where keys reach so far."""
    if prover.every_row is None:
        prover.every_row = False  # while it is being found
        start = prover.start()
        prover.every_row = any(
            prover.holds(apply("lt", witness, size("j")), start) and takes_part(prover, witness)
            for witness in (lit(0), index("i"))
        )
    return prover.every_row


def takes_part(prover: Prover, witness: Expr) -> bool:
    """Whether the key at `witness` takes part in every query's row, if there is such a key."""
    mask = prover.spec.mask
    return mask is None or _proves(prover, mask, witness, prover.start())


def _proves(prover: Prover, mask: Expr, witness: Expr, known: Known) -> bool:
    """Whether `mask` holds for every query with `witness` for the key."""
    match mask:
        case Apply("and", args):
            return all(_proves(prover, arg, witness, known) for arg in args)
        case Apply("or", args):
            return any(_proves(prover, arg, witness, known) for arg in args)
    if any(_has_two_parts(prover, node) for node in walk(mask)):
        return False
    try:
        there = substitute(mask, {"j": witness})
    except ValueError:
        return False
    return isinstance(there, Apply) and prover.holds(there, known)


def _has_two_parts(prover: Prover, node: Expr) -> bool:
    """Whether a read finds one thing for queries and another for keys, at the same position."""
    return isinstance(node, Read) and node.name in prover.decls and prover.decls[node.name].paired
