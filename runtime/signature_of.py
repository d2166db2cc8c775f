"""The signature of a checked spec."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.dsl import ast
from attnspec.dsl.check_domain import anchored
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.axes import expressions, find_axis, root, side
from attnspec.runtime.extents import OPERATIONS, fold
from attnspec.runtime.signature import Argument, Default, Extent, Grid, Signature


def signature(spec: ast.Spec, written: ast.Spec | None = None) -> Signature:
    """What a call of `spec` takes; where that was made of `written`, proofs are of that one."""
    return Signature(
        name=spec.name,
        arguments=tuple(_argument(spec, d) for d in spec.decls if d.form is not ast.Form.CONST),
        sizes=tuple(_sizes(spec)),
        tables=tuple(
            (d.name, tuple(root(spec, a) for a in d.axes), _shape(d.values))
            for d in spec.decls
            if d.form is ast.Form.CONST
        ),
        grids=_grids(spec),
        shared_grid=spec.shared_grid,
        equal=tuple((root(spec, a), root(spec, b)) for a, b in spec.equal_sizes),
        square=_square(spec),
        across=() if _square(spec) else tuple(sorted(_across(spec))),
        anchored=anchored(written or spec, _square(spec)),
        output=spec.output is not None,
        returns=tuple(r.name for r in spec.returns),
    )


def _argument(spec: ast.Spec, decl: ast.Decl) -> Argument:
    axes = tuple(side(spec, a) or root(spec, a) for a in decl.axes)
    default: Default | None = None
    if decl.values is not None:
        default = decl.values
    elif isinstance(decl.default, ast.Literal):
        default = decl.default.value
    elif decl.default is not None and decl.kind is not ast.Kind.BOOL:
        default = _number(decl.default, decl.kind)
    return Argument(
        name=decl.name,
        form=decl.form.value,
        axes=axes,
        kind=decl.kind.value,
        default=default,
        computed=default is None and decl.default is not None,
        paired=decl.paired,
    )


def _number(expr: ast.Expr, kind: ast.Kind) -> int | float | None:
    """A number that stands as negation of a literal, else None."""
    if isinstance(expr, ast.Apply) and expr.op == "neg" and isinstance(expr.args[0], ast.Literal):
        value = -expr.args[0].value
        return float(value) if kind is ast.Kind.FLOAT else value
    return None


def _shape(values: ast.Values | None) -> tuple[int, ...]:
    if not isinstance(values, tuple):
        return ()
    return (len(values), *_shape(values[0] if values else None))


def _sizes(spec: ast.Spec) -> Iterator[tuple[str, Extent]]:
    """Axes whose size follows from others, each after those it uses."""
    extents: dict[str, Extent] = {}
    for axis in spec.axes:
        match axis.role:
            case ast.Role.ALIAS:
                extents[axis.name] = side(spec, axis.name) or root(spec, axis.name)
            case ast.Role.TIME:
                extents[axis.name] = "j"
            case ast.Role.BLOCK:
                assert axis.base is not None
                assert axis.size is not None
                base = side(spec, axis.base) or root(spec, axis.base)
                extents[axis.name] = ("blocks", base, extent(axis.size))
            case ast.Role.CONCAT:
                total: Extent = axis.parts[0]
                for part in axis.parts[1:]:
                    total = ("add", total, part)
                extents[axis.name] = total
            case _ if axis.size is not None:
                extents[axis.name] = extent(axis.size)
    done: set[str] = set()

    def visit(name: str) -> Iterator[tuple[str, Extent]]:
        if name in done or name not in extents:
            return
        done.add(name)
        for used in _names(extents[name]):
            yield from visit(used)
        yield name, extents[name]

    for name in extents:
        yield from visit(name)


def _names(extent: Extent) -> Iterator[str]:
    if isinstance(extent, str):
        yield extent
    elif isinstance(extent, tuple):
        for part in extent[1:] if extent[0] != "number" else ():
            yield from _names(part)


def extent(expr: ast.Expr) -> Extent:
    """A size as data; AttnError when it is no arithmetic of sizes, constants and scalars."""
    match expr:
        case ast.Literal(value=value) if isinstance(value, int):
            return value
        case ast.Size(of=of):
            return of
        case ast.Read(name=name, index=()):
            return ("number", name)
        case ast.Apply(op=op, args=args) if op in OPERATIONS:
            parts = [extent(a) for a in args]
            numbers = [p for p in parts if isinstance(p, int)]
            if len(numbers) == len(parts):
                try:
                    return fold(op, numbers)
                except ValueError as error:
                    raise AttnError(f"a size divides by zero: {error}") from None
            return (op, *parts)
        case _:
            raise AttnError("a size may only be arithmetic of integers, sizes and scalars")


def _grids(spec: ast.Spec) -> tuple[Grid, ...]:
    if spec.shared_grid:
        names = spec.grids[0].names
        return (Grid("i", names, tuple(f"G{n.upper()}" for n in names)),)
    return tuple(
        Grid(g.side, g.names, tuple(f"G{n.upper()}_{g.side}" for n in g.names)) for g in spec.grids
    )


def _variables(expr: ast.Expr) -> Iterator[str]:
    for node in ast.walk(expr):
        yield from node.free
        if isinstance(node, ast.Reduce | ast.Contract):
            yield from node.axes


def _across(spec: ast.Spec) -> set[tuple[str, str, str]]:
    """Things of one side that are read at a position of the other."""
    found: set[tuple[str, str, str]] = set()
    for whole in expressions(spec):
        for node in ast.walk(whole):
            if not isinstance(node, ast.Read):
                continue
            for axis, index in zip(_axes(spec, node.name), node.index, strict=False):
                own = side(spec, axis)
                at = side(spec, index.axis) if isinstance(index, ast.Index) else None
                if own is not None and at is not None and own != at:
                    found.add((node.name, own, at))
    return found


def _axes(spec: ast.Spec, name: str) -> tuple[str, ...]:
    """The axes of what a call gives or a spec defines; none for constants."""
    decl = spec.decl(name)
    if decl is not None:
        return decl.axes if decl.form is not ast.Form.CONST else ()
    thing = spec.definition(name) or spec.state(name)
    return thing.axes if thing is not None else ()


def _square(spec: ast.Spec) -> bool:
    """Whether anything stands on the time axis, which rows and columns then share."""
    names = {v for e in expressions(spec) for v in _variables(e)}
    names.update(a for decl in spec.decls for a in decl.axes)
    names.update(a for state in spec.states for a in state.axes)
    return any(find_axis(spec, root(spec, n)).role is ast.Role.TIME for n in names)
