"""Does the mask leave a row empty? A sum over an empty row is 0, and must not be divided by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnspec.dsl.ast import Apply, Expr
from attnspec.dsl.build import apply, index, lit, size, substitute

if TYPE_CHECKING:
    from attnspec.dsl.check_known import Known
    from attnspec.dsl.check_prover import Prover


def every_row_has_a_pair(prover: Prover) -> bool:
    """Whether every query has a pair: the key j = 0, or j = i where keys reach so far."""
    if prover.every_row is None:
        mask, start = prover.spec.mask, prover.start()
        prover.every_row = False  # while it is being found
        for witness in (lit(0), index("i")):
            inside = prover.holds(apply("lt", witness, size("j")), start)
            if mask is None or (inside and _proves(prover, mask, witness, start)):
                prover.every_row = True
                break
    return prover.every_row


def _proves(prover: Prover, mask: Expr, witness: Expr, known: Known) -> bool:
    """Whether `mask` holds for every query with `witness` for the key."""
    match mask:
        case Apply("and", args):
            return all(_proves(prover, arg, witness, known) for arg in args)
        case Apply("or", args):
            return any(_proves(prover, arg, witness, known) for arg in args)
    try:
        there = substitute(mask, {"j": witness})
    except ValueError:
        return False
    return isinstance(there, Apply) and bool(
        prover.constraints(there, truth=False) and prover.holds(there, known)
    )
