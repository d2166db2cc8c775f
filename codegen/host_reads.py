"""Reading tensors on the host: whole, turned, at the other side's positions, or gathered."""

from __future__ import annotations

from dataclasses import replace
from operator import ne
from typing import TYPE_CHECKING

from attnspec.codegen.host_values import DTYPES, STARTS, TOKENS, Dims, Value
from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.rewrite import defined
from attnspec.dsl.ast import Decl, Expr, Form, GridIndex, Index, Kind, Read, Role

if TYPE_CHECKING:
    from attnspec.codegen.host import Host


def read(host: Host, expr: Read) -> Value:
    """A tensor, a number or a definition at the places of `expr`."""
    decl = host.spec.decl(expr.name)
    found = host.spec.definition(expr.name)
    if decl is not None and not decl.axes and decl.form is not Form.PARAM:
        return Value(f'number["{decl.name}"]', (), decl.kind, plain=True)
    if decl is not None:
        source = _tensor(host, decl, expr.index)
        axes = source.dims if decl.paired else decl.axes
    elif found is not None:
        source, axes = host.emit(defined(host.spec, expr.name)), found.axes
    else:
        raise Unsupported(f"the state `{expr.name}`")
    renamed = _renamed(host, axes, expr.index)
    if renamed is not None:
        if source.grouped and renamed["h"] != "h":  # another index over the heads counts them all
            sizes = ", ".join(host.size(d) if d == "h" else "-1" for d in source.dims)
            code = f"{host.ungrouped(source).code}.expand({sizes})"
            source = replace(host.like(source, code), grouped="", narrow=source.narrow)
        if decl is None or not decl.paired:  # a pair has the rows of either side
            source = _rows(host, source, axes, renamed)
        dims = tuple(renamed[d] for d in source.dims)
        value = replace(source, dims=dims)
        wanted = host.order(set(dims))
        if dims == wanted or value.plain:
            return value
        turned = host.assign(host.aligned(value, wanted), wanted, value.kind, value.grouped)
        return replace(turned, narrow=value.narrow)
    placed = _placed(host, expr, source, axes)
    return _gather(host, expr, source, axes) if placed is None else placed


def _placed(host: Host, expr: Read, source: Value, axes: Dims) -> Value | None:
    """What `source` holds at computed places of one dimension, where it is whole in the others."""
    places = {a: x for a, x in zip(axes, expr.index, strict=True) if a in source.dims}
    computed = [a for a, x in places.items() if not isinstance(x, Index)]
    own = [x.axis for x in places.values() if isinstance(x, Index)]
    if source.plain or expr.pad is not None or expr.name == host.only[0] or len(computed) != 1:
        return None
    kept = [a for a in places if a not in computed]
    if len(set(own)) < len(own) or any(map(ne, map(host.base, kept), map(host.base, own))):
        return None
    (axis,) = computed
    if host.spec.axis(axis).role in (Role.BATCH, Role.HEAD):
        return None
    at = host.emit(places[axis])
    if set(at.dims) & set(own):
        return None
    token = host.base(axis) in STARTS and host.spec.axis(axis).role in TOKENS
    code = f"{at.code} - {STARTS[host.base(axis)]}" if token else at.code
    front = ":, " * source.dims.index(axis)
    names = dict(zip(kept, own, strict=True))
    dims = tuple(d for a in source.dims for d in (at.dims if a == axis else (names[a],)))
    found = host.assign(f"{source.code}[{front}{code}]", dims, expr.kind, source.grouped)
    found = replace(found, narrow=source.narrow)
    wanted = host.order(set(dims))
    if dims == wanted:
        return found
    turned = host.assign(host.aligned(found, wanted), wanted, found.kind, found.grouped)
    return replace(turned, narrow=source.narrow)


def _rows(host: Host, source: Value, axes: Dims, renamed: dict[str, str]) -> Value:
    """The rows of `source` at the positions of the other side, where it is read there."""
    for axis in axes:
        own, other = host.base(axis), host.base(renamed[axis])
        if own == other or own not in STARTS or other not in STARTS or "t" in (own, other):
            continue
        first = f"{STARTS[other]} - {STARTS[own]}"
        place = source.dims.index(axis)
        code = f"{source.code}.narrow({place}, {first}, {host.size(other)})"
        rows = host.assign(code, source.dims, source.kind, source.grouped)
        source = replace(rows, narrow=source.narrow)
    return source


def _tensor(host: Host, decl: Decl, index: tuple[Expr, ...]) -> Value:
    """A declared tensor as a whole; of one that is given apart, the part that `index` means."""
    if decl.form is Form.CONST:
        code = f"torch.tensor({decl.values!r}, dtype={DTYPES[decl.kind]}, device=bound.device)"
        key = Read(decl.name, tuple(Index(a, kind=Kind.INT) for a in decl.axes), kind=decl.kind)
        if key not in host.known:
            host.known[key] = host.assign(code, decl.axes, decl.kind)
        return host.known[key]
    code, dims = f'tensor["{decl.name}"]', decl.axes
    if decl.paired:
        place = next(k for k, a in enumerate(decl.axes) if a in ("i", "j", "t"))
        at = index[place]
        former = isinstance(at, Index) and host.base(at.axis) == "i"
        if decl.name == host.only[0]:
            former = host.only[1] == "i"
        code += "[0]" if former else "[1]"
        dims = (*dims[:place], "i" if former else dims[place], *dims[place + 1 :])
    grouped = decl.name if decl.form in (Form.KEY, Form.VALUE) and "h" in decl.axes else ""
    return Value(code, dims, decl.kind, grouped=grouped, narrow=decl.kind is Kind.FLOAT)


def _renamed(host: Host, axes: Dims, index: tuple[Expr, ...]) -> dict[str, str] | None:
    """Dimension by axis where every index is a variable of that axis' own size."""
    names: dict[str, str] = {}
    for axis, at in zip(axes, index, strict=True):
        if not isinstance(at, Index) or at.axis in names.values():
            return None
        if axis != at.axis and not _same(host, axis, at.axis):
            return None
        names[axis] = at.axis
    return names


def _same(host: Host, axis: str, variable: str) -> bool:
    """Whether a variable takes every index of an axis once."""
    base, other = host.base(axis), host.base(variable)
    roles = {host.spec.axis(base).role, host.spec.axis(other).role}
    if base == other or roles == {Role.CHANNEL}:
        return True
    # a token read at the other side: the call checked or sliced the rows
    return roles <= TOKENS


def _gather(host: Host, expr: Read, source: Value, axes: Dims) -> Value:
    """What `source` holds at computed places."""
    if source.plain:
        return source
    dims = host.order(expr.free)
    ungrouped = host.ungrouped(source).code
    inside: list[Value] = []
    codes: list[str] = []
    for axis in source.dims:
        at = expr.index[axes.index(axis)]
        value = host.emit(at)
        role = host.spec.axis(axis).role
        if role in TOKENS and expr.name == host.only[0]:
            axis = host.only[1]
        code = host.aligned(value, dims)
        if value.plain:
            code = f"torch.tensor({code}, device=bound.device)"
        if host.base(axis) in STARTS and role in TOKENS:
            code = f"{code} - {STARTS[host.base(axis)]}"
        if role is Role.BATCH or (role is Role.HEAD and source.grouped):
            # one for all of them is left to broadcasting
            code = f"{code}.clamp(max={ungrouped}.shape[{len(codes)}] - 1)"
        if expr.pad is not None and not isinstance(at, Index):
            named = host.assign(code, dims, Kind.INT)
            inside.extend(_inside(host, at, named, axis))
            code = f"{named.code}.clamp(0, {host.size(axis)} - 1)"
        codes.append(code)
    picked = f"{ungrouped}[{', '.join(codes)}]"
    if inside and expr.pad is not None:
        pad = host.aligned(host.emit(expr.pad), dims)
        held = host.assign(picked, dims, expr.kind)
        test = host.aligned(_all_hold(host, inside), dims)
        picked = f"torch.where({test}, {held.code}, {pad})"
    return replace(host.assign(picked, dims, expr.kind), narrow=source.narrow)


def _inside(host: Host, at: Expr, place: Value, axis: str) -> list[Value]:
    """Tests that a place exists, each over the dimensions that decide it."""
    if not isinstance(at, GridIndex):
        return [_between(host, place, axis)]
    names = next(g.names for g in host.spec.grids if g.side == at.grid or host.spec.shared_grid)
    side = "i" if host.spec.shared_grid else at.grid
    pairs = zip(names, at.coords, strict=True)
    return [_between(host, host.emit(coord), f"{side}.{name}") for name, coord in pairs]


def _between(host: Host, value: Value, axis: str) -> Value:
    """Whether an index lies in an axis."""
    code = f"({value.code} >= 0) & ({value.code} < {host.size(axis)})"
    return host.assign(code, value.dims, Kind.BOOL)


def _all_hold(host: Host, tests: list[Value]) -> Value:
    """The conjunction of tests, over no more dimensions than they have."""
    held = tests[0]
    for test in tests[1:]:
        dims = host.order({*held.dims, *test.dims})
        code = f"{host.aligned(held, dims)} & {host.aligned(test, dims)}"
        held = host.assign(code, dims, Kind.BOOL)
    return held
