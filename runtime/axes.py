"""What the axes of a spec count, and all of its expressions."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.dsl import ast

_BUILT_IN = {
    "b": ast.Role.BATCH,
    "h": ast.Role.HEAD,
    "i": ast.Role.QUERY,
    "j": ast.Role.KEY,
    "t": ast.Role.TIME,
}


def find_axis(spec: ast.Spec, name: str) -> ast.Axis:
    """The axis called `name`, built-in ones included where the spec does not list them."""
    for axis in spec.axes:
        if axis.name == name:
            return axis
    return ast.Axis(name, _BUILT_IN.get(name, ast.Role.CHANNEL))


def root(spec: ast.Spec, name: str) -> str:
    """The axis under any aliases of `name`."""
    axis = find_axis(spec, name)
    while axis.role is ast.Role.ALIAS and axis.base is not None:
        axis = find_axis(spec, axis.base)
    return axis.name


def side(spec: ast.Spec, name: str) -> str | None:
    """The side ("i" or "j") on which a token axis counts positions; None for other axes."""
    match find_axis(spec, root(spec, name)).role:
        case ast.Role.QUERY:
            return "i"
        case ast.Role.KEY | ast.Role.TIME:
            return "j"
        case _:
            return None


def expressions(spec: ast.Spec) -> Iterator[ast.Expr]:
    """Every whole expression of a spec."""
    for decl in spec.decls:
        yield from (e for e in (decl.default, decl.where) if e is not None)
    yield from (a.size for a in spec.axes if a.size is not None)
    yield from spec.requires
    yield from (d.expr for d in spec.defs)
    for state in spec.states:
        yield state.init
        yield state.step
    yield from (e for e in (spec.mask, spec.output) if e is not None)
    yield from (r.expr for r in spec.returns)
