"""Tiles that are compact on a grid, or of one residue, and the box of them that a mask reaches.

Neighbours on a grid of two or three axes lie far apart in row-major order: a tile of consecutive
tokens is a thin strip, and what it sees are many strips. A patch is a tile that is an interval
along every axis. Where the mask is a conjunction in which comparisons of coordinates of one axis
bound an axis other than the slowest, the patches that a patch reaches are a box: along each axis
an interval, solved like any other loop's bounds, over the patch's first and last coordinate.

Where a dilated mask asks that two coordinates leave the same remainder by a step, tokens of one
remainder are a grid of their own, in which quotients are the coordinates. A patch holds tokens of
one such grid, and so do all that it reaches: the remainders are numbers there. Plain positions
count as a grid of one axis for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attnspec.dsl.analysis.bounds import bounds
from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.analysis.inlining import inline
from attnspec.dsl.analysis.positions import coordinates, rebuild
from attnspec.dsl.analysis.runs import Run, hull, shown
from attnspec.dsl.ast import (
    Apply,
    Coord,
    Expr,
    Index,
    Kind,
    Literal,
    Read,
    Size,
    Spec,
    conjuncts,
    walk,
)
from attnspec.dsl.build import conjunction
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.formula import formula

_ONE = Literal(1, kind=Kind.INT)


@dataclass(frozen=True, slots=True)
class Patches:
    """Boxes by axis, slowest first. `rows`: keys' coordinates for a patch of queries whose own are
    `lo_y` to `hi_y` along y; `columns` the reverse. `i_at` and `j_at` are a token's coordinates, of
    its position. `i_sides` and `j_sides` are the grids', None that of plain positions; `steps` part
    them by remainders, which are `rest_y` (and coordinates quotients). `mask` is what is left of
    the mask then."""

    axes: tuple[str, ...]
    i_at: tuple[Expr, ...]
    j_at: tuple[Expr, ...]
    i_sides: tuple[Expr | None, ...]
    j_sides: tuple[Expr | None, ...]
    steps: tuple[Expr, ...]
    rows: tuple[Run, ...]
    columns: tuple[Run, ...]
    mask: Expr | None


def patches(spec: Spec, prover: Prover) -> Patches | None:
    """Boxes of the mask of `spec`, if tiles that are compact on its grid can pay."""
    if spec.mask is None:
        return None
    names = {side: _names(spec, side) for side in "ij"}
    axes = names["i"]
    if len(axes) != len(names["j"]):
        return None
    parts = list(conjuncts(inline(spec, spec.mask)))
    read: set[int] = set()
    held: set[int] = set()  # what every pair of a patch and one that it reaches fulfils
    rows, columns, steps = [], [], []
    for place, axis in enumerate(axes):
        own = {n: at for n, part in enumerate(parts) if (at := _along(part, place, names))}
        asked = [step for part in own.values() if (step := _step(part)) is not None]
        step = next((s for s in asked if prover.positive(s, prover.start())), _ONE)
        read |= own.keys()
        held |= {n for n, part in own.items() if _step(part) == step}
        mine = [_quotients(part, step, axis) for n, part in own.items() if n not in held]
        mask = conjunction(tuple(mine))
        rows.append(_named(hull(bounds(mask, "j", "i", prover)), axis))
        columns.append(_named(hull(bounds(mask, "i", "j", prover)), axis))
        steps.append(step)
    inner = any(run.first is not None or run.last is not None for run in rows[1:])
    if not inner and all(step == _ONE for step in steps):
        return None
    if len(read) < len(parts):  # some pairs of any patch may be excluded besides
        rows = [replace(run, full=False) for run in rows]
        columns = [replace(run, full=False) for run in columns]
    i_at, j_at = (_places(spec, side, names[side]) for side in "ij")
    i_sides, j_sides = (_sides(spec, side, names[side]) for side in "ij")
    left = conjunction(tuple(part for n, part in enumerate(parts) if n not in held))
    return Patches(
        axes, i_at, j_at, i_sides, j_sides, tuple(steps), tuple(rows), tuple(columns), left
    )


def describe(found: Patches | None) -> Iterator[Fact]:
    """Compact tiles as a fact."""
    if found is None:
        return
    for axis, step in zip(found.axes, found.steps, strict=True):
        if step != _ONE:
            yield Fact(
                f"step along {axis}",
                formula(step),
                "pairs leave the same remainder by it",
                "tokens of each remainder have tiles of their own",
            )
    for axis, run in zip(found.axes, found.rows, strict=True):
        yield Fact(
            f"keys of a patch of queries along {axis}",
            f"{shown(run.first, 'start')} .. {shown(run.last, 'end')}",
            "the mask is a conjunction of comparisons along one axis each",
            "tiles are compact on the grid, and what they reach is a box of such tiles",
        )


def _names(spec: Spec, side: str) -> tuple[str, ...]:
    """The names of the axes of a side's grid; `n` of plain positions."""
    return next((g.names for g in spec.grids if g.side == side or spec.shared_grid), ("n",))


def _places(spec: Spec, side: str, names: tuple[str, ...]) -> tuple[Expr, ...]:
    if not spec.grids:
        return (Index(side, kind=Kind.INT),)
    return tuple(coordinates(Coord(side, name, side, kind=Kind.INT), spec) for name in names)


def _sides(spec: Spec, side: str, names: tuple[str, ...]) -> tuple[Expr | None, ...]:
    if not spec.grids:
        return (None,)
    of = "i" if spec.shared_grid else side
    return tuple(Size(f"{of}.{name}", kind=Kind.INT) for name in names)


def _along(part: Expr, place: int, names: dict[str, tuple[str, ...]]) -> Expr | None:
    """`part` with coordinates of the axis at `place` as positions, if it has no others."""
    grid = names["i"] != ("n",)
    seen = False
    for node in walk(part):
        match node:
            case Coord(axis="i" | "j" as side, along=along) if grid:
                if names[side].index(along) != place:
                    return None
                seen = True
            case Index(axis="i" | "j") if not grid:
                seen = True
            case Index() | Coord():
                return None

    def position(node: Expr) -> Expr:
        if isinstance(node, Coord):
            return Index(node.axis, kind=Kind.INT)
        return rebuild(node, position)

    return position(part) if seen else None


_I, _J = Index("i", kind=Kind.INT), Index("j", kind=Kind.INT)


def _step(part: Expr) -> Expr | None:
    """r, if `part` says that i and j leave the same remainder by r."""
    match part:
        case Apply(op="eq", args=(Apply(op="mod", args=(x, r)), Apply(op="mod", args=(y, s)))):
            if {x, y} == {_I, _J} and r == s and not r.free:
                return r
        case Apply(op="eq", args=(Apply(op="mod", args=(x, r)), Literal(value=0))):
            if x in (Apply("sub", (_I, _J), kind=Kind.INT), Apply("sub", (_J, _I), kind=Kind.INT)):
                return None if r.free else r
    return None


def _quotients(part: Expr, step: Expr, axis: str) -> Expr:
    """`part` over quotients by `step`, where both tokens leave the remainder `rest_y`."""
    if step == _ONE:
        return part
    rest = Read(_rest(axis), (), kind=Kind.INT)

    def written(node: Expr) -> Expr:
        match node:
            case Apply(op="floordiv", args=(Index() as x, r)) if r == step:
                return x
            case Apply(op="mod", args=(Index(), r)) if r == step:
                return rest
            case Index():
                whole = Apply("mul", (node, step), kind=Kind.INT)
                return Apply("add", (whole, rest), kind=Kind.INT)
        return rebuild(node, written)

    return written(part)


def _rest(axis: str) -> str:
    return f"rest_{axis}"


def _named(run: Run, axis: str) -> Run:
    """`run` over the ends of a patch along `axis`."""

    def named(node: Expr) -> Expr:
        match node:
            case Index(axis="lo" | "hi"):
                return replace(node, axis=f"{node.axis}_{axis}")
            case Read(name=name) if name == _rest(axis):
                return Index(name, kind=Kind.INT)
        return rebuild(node, named)

    def end(limit: Expr | None) -> Expr | None:
        return None if limit is None else named(limit)

    return Run(end(run.first), end(run.last), end(run.full_first), end(run.full_last), run.full)
