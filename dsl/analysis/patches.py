"""Tiles that are compact on a grid, and the box of them that a mask reaches.

Neighbours on a grid of two or three axes lie far apart in row-major order: a tile of consecutive
tokens is a thin strip, and what it sees are many strips. A patch is a tile that is an interval
along every axis. Where the mask is a conjunction in which comparisons of coordinates of one axis
bound an axis other than the slowest, the patches that a patch reaches are a box: along each axis
an interval, solved like any other loop's bounds, over the patch's first and last coordinate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attnspec.dsl.analysis.bounds import HI, LO, Run, bounds, hull
from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.analysis.inlining import inline
from attnspec.dsl.analysis.positions import rebuild
from attnspec.dsl.ast import Apply, Coord, Expr, Index, Kind, Size, Spec, conjuncts, walk
from attnspec.dsl.formula import formula


@dataclass(frozen=True, slots=True)
class Patches:
    """Boxes by axis, slowest first. `rows`: keys' coordinates for a patch of queries whose own are
    `lo_y` to `hi_y` along y; `columns` the reverse. `i_sides` and `j_sides` are the grids'."""

    axes: tuple[str, ...]
    i_sides: tuple[Expr, ...]
    j_sides: tuple[Expr, ...]
    rows: tuple[Run, ...]
    columns: tuple[Run, ...]


def patches(spec: Spec) -> Patches | None:
    """Boxes of the mask of `spec`, if tiles that are compact on its grid can pay."""
    if spec.mask is None or not spec.grids:
        return None
    names = {side: _names(spec, side) for side in "ij"}
    axes = names["i"]
    if not axes or len(axes) != len(names["j"]):
        return None
    parts = list(conjuncts(inline(spec, spec.mask)))
    rows, columns = [], []
    for place, axis in enumerate(axes):
        mine = [along for part in parts if (along := _along(part, place, names)) is not None]
        whole = mine[0] if len(mine) == 1 else Apply("and", tuple(mine), kind=Kind.BOOL)
        mask = whole if mine else None
        rows.append(_named(hull(bounds(mask, "j", "i")), axis))
        columns.append(_named(hull(bounds(mask, "i", "j")), axis))
    if all(run.first is None and run.last is None for run in rows[1:]):
        return None
    unread = [p for p in parts if all(_along(p, n, names) is None for n in range(len(axes)))]
    if unread:  # some pairs of any patch may be excluded besides
        rows = [replace(run, full=False) for run in rows]
        columns = [replace(run, full=False) for run in columns]
    sides = {
        side: tuple(
            Size(f"{'i' if spec.shared_grid else side}.{name}", kind=Kind.INT)
            for name in names[side]
        )
        for side in "ij"
    }
    return Patches(axes, sides["i"], sides["j"], tuple(rows), tuple(columns))


def describe(found: Patches | None) -> Iterator[Fact]:
    """Compact tiles as a fact."""
    if found is None:
        return
    for axis, run in zip(found.axes, found.rows, strict=True):
        first = "start" if run.first is None else formula(run.first)
        last = "end" if run.last is None else formula(run.last)
        yield Fact(
            f"keys of a patch of queries along {axis}",
            f"{first} .. {last}",
            "the mask is a conjunction of comparisons along one axis each",
            "tiles are compact on the grid, and what they reach is a box of such tiles",
        )


def _names(spec: Spec, side: str) -> tuple[str, ...]:
    return next((g.names for g in spec.grids if g.side == side or spec.shared_grid), ())


def _along(part: Expr, place: int, names: dict[str, tuple[str, ...]]) -> Expr | None:
    """`part` with coordinates of the axis at `place` as positions, if it has no others."""
    for node in walk(part):
        match node:
            case Coord(axis="i" | "j" as side, along=along):
                if names[side].index(along) != place:
                    return None
            case Index() | Coord():
                return None

    def position(node: Expr) -> Expr:
        if isinstance(node, Coord):
            return Index(node.axis, kind=Kind.INT)
        return rebuild(node, position)

    seen = any(isinstance(node, Coord) for node in walk(part))
    return position(part) if seen else None


def _named(run: Run, axis: str) -> Run:
    """`run` over the ends of a patch along `axis`."""

    def named(node: Expr) -> Expr:
        if isinstance(node, Index) and node.axis in (LO, HI):
            return replace(node, axis=f"{node.axis}_{axis}")
        return rebuild(node, named)

    def end(limit: Expr | None) -> Expr | None:
        return None if limit is None else named(limit)

    return Run(end(run.first), end(run.last), end(run.full_first), end(run.full_last), run.full)
