"""On which side the tokens of a tensor lie: what `n` means, and which tensors come in pairs."""

from __future__ import annotations

from attnspec.dsl.ast import Coord, Expr, Index, Read, Role, walk
from attnspec.dsl.check_definitions import Guess, Parts
from attnspec.dsl.check_expr import Elaborator
from attnspec.dsl.check_names import TOKENS


def next_guess(parts: Parts) -> Guess:
    """What the reads of one elaboration say about `n` and about the states."""
    el = parts.el
    reads: dict[str, list[tuple[Expr, str | None]]] = {}
    for seen in el.seen:
        if seen.written == "n":
            reads.setdefault(seen.name, []).append((seen.index, seen.owner))
    rows = set(reads)
    changed = True
    while changed:
        kept = {name for name in rows if all(_on_rows(el, *read, rows) for read in reads[name])}
        changed = kept != rows
        rows = kept
    return Guess(frozenset(rows), dict(parts.kinds))


def _on_rows(el: Elaborator, index: Expr, owner: str | None, rows: set[str]) -> bool:
    """Whether a tensor over `n` is read at a row of `i` there."""
    if any(isinstance(node, Read) for node in walk(index)):
        return False
    tokens = [axis for axis in index.free if el.axis(axis).family in TOKENS]
    if not tokens:
        return False
    return all(
        owner in rows if axis in ("n", "n.i") else el.axis(axis).family is Role.QUERY
        for axis in tokens
    )


def paired(parts: Parts) -> frozenset[str]:
    """The declared tensors with one token axis that are read both at `i` and at keys."""
    sides: dict[str, set[str]] = {}
    for seen in parts.el.seen:
        slots = parts.el.tensors[seen.name].slots
        tokens = [slot for slot in slots if parts.el.axis(slot.axis).family in TOKENS]
        if len(tokens) != 1 or seen.axis == "t":
            continue
        index = seen.index
        family = parts.el.axis(index.axis).family if isinstance(index, Index | Coord) else Role.KEY
        own = parts.el.axis(tokens[0].axis).family
        if own is Role.QUERY and _on_rows(parts.el, index, seen.owner, set()):
            family = own
        if family is not Role.TIME:
            sides.setdefault(seen.name, set()).add("i" if family is Role.QUERY else "j")
    return frozenset(name for name, found in sides.items() if len(found) == 2)
