"""Tile bounds against brute force: every pair of a call, every tile of both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attnspec.dsl.analysis.bounds import bounds
from attnspec.dsl.analysis.inlining import inline
from attnspec.dsl.analysis.positions import coordinates
from attnspec.dsl.analysis.runs import Bounds, Run
from attnspec.dsl.ast import Apply, Expr, Index, Kind, Literal, Read, Size, Spec
from attnspec.dsl.check import check
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.parse import parse
from attnspec.runtime.bind import Bound
from attnspec.runtime.reference import Evaluator

Leaf = Callable[[Expr], Tensor]


def value(expr: Expr, leaf: Leaf) -> Tensor:
    """A number for each tile, from its definition; `leaf` gives positions, sizes and inputs."""
    match expr:
        case Literal(value=number):
            return torch.tensor(number, dtype=torch.float64 if expr.kind is Kind.FLOAT else None)
        case Index() | Read() | Size():
            return leaf(expr)
        case Apply(op=op, args=args):
            found = OPERATIONS[op](*(value(a, leaf) for a in args))
            return found.long() if expr.kind is Kind.INT else found
    raise NotImplementedError(type(expr).__name__)


def _fold(pair: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def folded(*args: Tensor) -> Tensor:
        total = args[0]
        for arg in args[1:]:
            total = pair(total, arg)
        return total

    return folded


def _floored(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, _divisor(b), rounding_mode="floor")


def _divisor(b: Tensor) -> Tensor:
    """A number of the call that may be 0 where no pair asks for it."""
    return torch.where(b == 0, 1, b)


OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "add": _fold(torch.add),
    "sub": torch.sub,
    "mul": _fold(torch.mul),
    "div": lambda a, b: a.double() / b.double(),
    "floordiv": _floored,
    "mod": lambda a, b: torch.remainder(a, _divisor(b)),
    "pow": torch.pow,
    "neg": torch.neg,
    "abs": torch.abs,
    "min": _fold(torch.minimum),
    "max": _fold(torch.maximum),
    "clamp": lambda x, a, b: torch.minimum(torch.maximum(x, a), b),
    "where": torch.where,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "sqrt": torch.sqrt,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    "and": _fold(torch.logical_and),
    "or": _fold(torch.logical_or),
    "not": torch.logical_not,
}


@dataclass
class Count:
    """Tiles that loops visit, those of them without a pair, and full ones found and there."""

    visited: int = 0
    empty: int = 0
    full: int = 0
    all: int = 0

    def __add__(self, other: Count) -> Count:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Count(*(a + b for a, b in pairs))


@dataclass(frozen=True)
class Loops:
    """A spec and the bounds of its two loops."""

    spec: Spec
    rows: Bounds
    columns: Bounds

    @staticmethod
    def of(text: str) -> Loops:
        """Of a spec's text."""
        spec = check(parse(text))[0]
        assert spec.mask is not None
        prover, mask = Prover(spec), coordinates(inline(spec, spec.mask), spec)
        return Loops(spec, bounds(mask, "j", "i", prover), bounds(mask, "i", "j", prover))


def survey(loops: Loops, bound: Bound, tile: int, across: int) -> Count:
    """Both loops of a call over tiles of `tile` by `across`; asserts that they are sound.

    A position that is skipped holds no pair, and a position that counts as full holds all.
    """
    spec = loops.spec
    assert spec.mask is not None
    evaluate = Evaluator(spec, bound, torch.float64)
    named = evaluate(spec.mask)
    starts = {"i": bound.q_start, "j": bound.k_start}
    dims = ("b", "h", "i", "j")
    sizes = dict(bound.sizes) | {d: 1 for d in "bh" if d not in named.dims}
    allowed = named.full(dims, sizes)
    total = Count()
    for b in range(sizes["b"]):
        for h in range(sizes["h"]):
            for found, side, other in ((loops.rows, "i", "j"), (loops.columns, "j", "i")):
                pairs = allowed[b, h] if side == "i" else allowed[b, h].T

                def leaf(expr: Expr, b: int = b, h: int = h) -> Tensor:
                    if isinstance(expr, Index) and expr.axis in ("b", "h"):
                        return torch.tensor(b if expr.axis == "b" else h)
                    here = evaluate(expr).over(("b", "h"))
                    return here[min(b, here.shape[0] - 1), min(h, here.shape[1] - 1)]

                total += _side(pairs, found, leaf, (starts[side], starts[other]), tile, across)
    return total


def _side(
    pairs: Tensor,
    found: Bounds,
    leaf: Leaf,
    starts: tuple[int, int],
    tile: int,
    across: int,
) -> Count:
    """One loop: a row of `pairs` for every position of the side that is cut into tiles."""
    low = torch.arange(0, pairs.shape[0], tile)
    high = (low + tile).clamp(max=pairs.shape[0]) - 1
    ends = {"lo": low + starts[0], "hi": high + starts[0]}

    def at(expr: Expr) -> Tensor:
        if isinstance(expr, Index) and expr.axis in ends:
            return ends[expr.axis]
        return leaf(expr)

    place = torch.arange(pairs.shape[1]) + starts[1]
    blocks = pairs.split(tile)
    some = torch.stack([block.any(0) for block in blocks])
    every = torch.stack([block.all(0) for block in blocks])
    visited, full = torch.zeros_like(some), []
    for run in found.runs:
        inside, whole = covered(run, at, place, len(low))
        visited |= inside
        full.append(inside & whole)
    missed = (some & ~visited).nonzero()
    assert not len(missed), ("skipped", missed[0].tolist(), tile, starts)
    for one in full:
        hole = (one & ~every).nonzero()
        assert not len(hole), ("hole", hole[0].tolist(), tile, starts)

    def by_tile(what: Tensor, how: Callable[..., Tensor]) -> Tensor:
        return torch.stack([how(part, -1) for part in what.split(across, -1)], -1)

    reached, held = by_tile(visited, torch.any), by_tile(some, torch.any)
    known = torch.stack([by_tile(one, torch.all) for one in full]).any(0)
    return Count(
        int(reached.sum()),
        int((reached & ~held).sum()),
        int(known.sum()),
        int(by_tile(every, torch.all).sum()),
    )


def covered(run: Run, at: Leaf, place: Tensor, tiles: int) -> tuple[Tensor, Tensor]:
    """Where positions lie between the ends of a run, and between its full ends."""

    def between(first: Expr | None, last: Expr | None) -> Tensor:
        inside = torch.ones(tiles, len(place), dtype=torch.bool)
        if first is not None:
            inside &= place >= value(first, at).expand(tiles)[:, None]
        if last is not None:
            inside &= place <= value(last, at).expand(tiles)[:, None]
        return inside

    inside = between(run.first, run.last)
    full = between(run.full_first, run.full_last) if run.full else torch.zeros_like(inside)
    return inside, full
