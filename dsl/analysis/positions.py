"""Grid coordinates as index arithmetic, and signs of integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attnspec.dsl.ast import (
    EXPRESSION_FIELDS,
    Apply,
    Coord,
    Expr,
    GridIndex,
    Index,
    Kind,
    Literal,
    Node,
    Read,
    Size,
    Spec,
)


def coordinates(expr: Expr, spec: Spec) -> Expr:
    """`expr` with every coordinate written as floor division and remainder of a position."""
    done: dict[int, Expr] = {}

    def visit(node: Expr) -> Expr:
        if id(node) not in done:
            done[id(node)] = _lower(node, spec) or rebuild(node, visit)
        return done[id(node)]

    return visit(expr)


def rebuild(node: Expr, visit: Callable[[Expr], Expr]) -> Expr:
    """`node` with `visit` applied to the expressions directly under it."""
    changed = {}
    for name in EXPRESSION_FIELDS[type(node)]:
        old = getattr(node, name)
        new = _map(old, visit)
        if new is not old:
            changed[name] = new
    return replace(node, **changed) if changed else node  # type: ignore[arg-type]


def outside(spec: Spec, visit: Callable[[Expr], Expr]) -> Spec:
    """`spec` with `visit` applied to its mask, output and returns; its definitions stay."""
    mask = None if spec.mask is None else visit(spec.mask)
    output = None if spec.output is None else visit(spec.output)
    returns = tuple(replace(r, expr=visit(r.expr)) for r in spec.returns)
    return replace(spec, mask=mask, output=output, returns=returns)


def _map(value: object, visit: Callable[[Expr], Expr]) -> object:
    if isinstance(value, Node):
        return visit(value)  # type: ignore[arg-type]
    if isinstance(value, tuple):
        new = tuple(_map(item, visit) for item in value)
        return value if all(a is b for a, b in zip(value, new, strict=True)) else new
    return value


def _side(along: str, grid: str, spec: Spec) -> Expr:
    return Size(f"{'i' if spec.shared_grid else grid}.{along}", kind=Kind.INT)


def _names(grid: str, spec: Spec) -> tuple[str, ...]:
    return next(g.names for g in spec.grids if g.side == grid or spec.shared_grid)


def _lower(node: Expr, spec: Spec) -> Expr | None:
    match node:
        case Coord(axis=axis, along=along, grid=grid):
            names = _names(grid, spec)
            place = names.index(along)
            value: Expr = Index(axis, kind=Kind.INT)
            if place + 1 < len(names):
                inner = [_side(n, grid, spec) for n in names[place + 1 :]]
                divisor = inner[0] if len(inner) == 1 else Apply("mul", tuple(inner), kind=Kind.INT)
                value = Apply("floordiv", (value, divisor), kind=Kind.INT)
            if place > 0:
                value = Apply("mod", (value, _side(along, grid, spec)), kind=Kind.INT)
            return value
        case GridIndex(coords=coords, grid=grid):
            names = _names(grid, spec)
            flat = coordinates(coords[0], spec)
            for name, coord in zip(names[1:], coords[1:], strict=True):
                scaled = Apply("mul", (flat, _side(name, grid, spec)), kind=Kind.INT)
                flat = Apply("add", (scaled, coordinates(coord, spec)), kind=Kind.INT)
            return flat
        case Read(pad=pad, index=index) if pad is not None and any(
            isinstance(x, GridIndex) for x in index
        ):
            return node  # what pads is decided by each coordinate
    return None


def divides(expr: Expr) -> bool:
    """Whether an integer is provably not 0 (where there is a token at all)."""
    match expr:
        case Literal(value=value):
            return value != 0
        case Size():
            return True
        case Apply(op=("mul" | "neg"), args=args):
            return all(divides(a) for a in args)
    return False


def nonnegative(expr: Expr) -> bool:
    """Whether an integer is provably 0 or more (positions, sizes and sums of such things)."""
    match expr:
        case Index() | Size():
            return True
        case Literal(value=value):
            return value >= 0
        case Apply(op=("add" | "mul" | "min" | "where"), args=args):
            relevant = args[1:] if expr.op == "where" else args
            return all(nonnegative(a) for a in relevant)
        case Apply(op="max", args=args):
            return any(nonnegative(a) for a in args)
        case Apply(op="abs"):
            return True
        case Apply(op="clamp", args=(_, low, high)):
            return nonnegative(low) and nonnegative(high)
        case Apply(op="floordiv", args=(a, b)):
            return nonnegative(a) and nonnegative(b)
        case Apply(op="mod", args=(_, b)):
            return nonnegative(b)
    return False
