"""Sums, normalisers, ranks, rotations on the host: whatever mixes the indices of an axis."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attnspec.codegen.host_values import DTYPES, STARTS, Value
from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.rewrite_blocks import Block, one_block
from attnspec.codegen.rewrite_ranks import CUTOFF
from attnspec.dsl.ast import (
    Apply,
    Concat,
    Contract,
    Cumsum,
    Expr,
    Index,
    Kind,
    Normalize,
    Rank,
    Reduce,
    Rope,
)

if TYPE_CHECKING:
    from attnspec.codegen.host import Host

_PLACE = "place"  # the dimension of the places in a block, until it is reduced


def contract(host: Host, expr: Contract) -> Value:
    """A sum of products over channels, as an `einsum` where both sides have every axis."""
    if host.overflows(expr.left, expr.right):
        return _sum_product(host, expr)
    left, right = (host.widen(host.wide(x), Kind.FLOAT) for x in (expr.left, expr.right))
    groups = {v.grouped for v in (left, right) if "h" in v.dims}
    ungroup = len(groups) > 1
    for axis in expr.axes:
        if axis not in left.dims or axis not in right.dims:
            return _sum_product(host, expr)
    letters = {d: chr(97 + k) for k, d in enumerate(host.order({*left.dims, *right.dims}))}
    dims = host.order({*left.dims, *right.dims} - set(expr.axes))
    texts = ["".join(letters[d] for d in v.dims) for v in (left, right)]
    out = "".join(letters[d] for d in dims)
    codes = ", ".join(host.aligned(v, v.dims, ungroup) for v in (left, right))
    code = f'torch.einsum("{texts[0]},{texts[1]}->{out}", {codes})'
    return host.assign(code, dims, Kind.FLOAT, "" if ungroup else next(iter(groups), ""))


def _sum_product(host: Host, expr: Contract) -> Value:
    """The same where a side does not have every axis, or may be infinite."""
    product = Apply("mul", (expr.left, expr.right), kind=Kind.FLOAT)
    return host.emit(Reduce("sum", expr.axes, product, kind=Kind.FLOAT))


def _spread(host: Host, expr: Expr, *axes: str) -> Value:
    """`expr` with dimensions `axes`, each whole: spread out where it does not depend on it."""
    value = host.wide(expr)
    if "h" in axes and value.grouped:
        value = host.assign(host.aligned(value, value.dims, True), value.dims, value.kind)
    missing = [a for a in axes if a not in value.dims]
    if not missing:
        return value
    dims = host.order({*value.dims, *missing})
    if value.plain:
        code = f"torch.tensor({value.code}, dtype={DTYPES[value.kind]}, device=bound.device)"
        value = Value(code, (), value.kind)
    shape = ", ".join(host.size(d) if d in missing else "-1" for d in dims)
    code = host.aligned(value, dims) if value.dims else value.code
    return host.assign(f"{code}.expand({shape})", dims, value.kind, value.grouped)


def _masked(host: Host, body: Value, where: Expr, fill: str) -> Value:
    """`body` with `fill` where it is excluded."""
    body, mask = host.matched(body, host.emit(where))
    return host.like(body, f"{body.code}.masked_fill(~{mask.code}, {fill})")


def reduce(host: Host, expr: Reduce) -> Value:
    """A reduction over axes, of the indices that `where` allows."""
    if expr.mask is not None:
        raise Unsupported(f"a pairwise {expr.op} besides the sum of weighted values")
    if expr.op == "argmax":
        return _place(host, expr)
    if (end := _end(host, expr)) is not None:
        return end
    if expr.op == CUTOFF:
        return _cutoff(host, expr)
    block = _block(host, expr)
    body = host.widen(_spread(host, expr.body, *expr.axes), expr.kind)
    fills = {"prod": "1", "all": "True", "any": "False", "logsumexp": 'float("-inf")'}
    fills |= {"amax": f"lowest({body.code})", "amin": f"highest({body.code})"}
    fill, where = fills.get(expr.op, "0"), expr.where if block is None else block.rest
    whole = body if where is None else _masked(host, body, where, fill)
    count = ""
    if expr.op == "mean" and expr.where is not None:
        count = f"torch.full({whole.code}.shape, True, device=bound.device)"
        if where is not None:
            _, mask = host.matched(whole, host.emit(where))
            count = f"({mask.code}).expand({whole.code}.shape)"
    axes = expr.axes
    if block is not None:
        if count:
            count = _in_blocks(host, replace(whole, code=count), block, "False").code
        whole, axes = _in_blocks(host, whole, block, fill), (_PLACE,)
    dims = tuple(d for d in whole.dims if d not in axes)
    at = repr(tuple(host.dim(whole, a) for a in axes))
    grouped = whole.grouped if "h" in dims else ""
    codes = {
        "sum": f"{whole.code}.sum({at})",
        "mean": f"{whole.code}.sum({at}) / {count}.sum({at}).clamp(min=1)"
        if count
        else f"mean({whole.code}, {at})",
        "amax": f"amax({whole.code}, {at})",
        "amin": f"amin({whole.code}, {at})",
        "logsumexp": f"logsumexp({whole.code}, {at})",
        "prod": f"product({whole.code}, {at})",
        "any": f"torch.any({whole.code}, {at})",
        "all": f"torch.all({whole.code}, {at})",
    }
    found = host.assign(codes[expr.op], dims, expr.kind, grouped)
    if dims == (wanted := host.order(set(dims))):
        return found
    return host.assign(host.aligned(found, wanted), wanted, expr.kind, grouped)


def _block(host: Host, expr: Reduce) -> Block | None:
    """What a reduction runs over if that is one block for each of an axis of blocks."""
    block = one_block(host.spec, expr)
    if block is None or not isinstance(block.at, Index):
        return None
    others = expr.body.free | (frozenset() if block.rest is None else block.rest.free)
    return None if block.at.axis in others else block


def _in_blocks(host: Host, value: Value, block: Block, fill: str) -> Value:
    """Blocks and places in one, where there are tokens."""
    assert isinstance(block.at, Index)
    place = value.dims.index(block.run)
    first = STARTS[host.base(block.run)]
    code = f"in_blocks({value.code}, {place}, {block.length}, {first}, {fill})"
    dims = (*value.dims[:place], block.at.axis, _PLACE, *value.dims[place + 1 :])
    return host.assign(code, dims, value.kind, value.grouped)


def _end(host: Host, expr: Reduce) -> Value | None:
    """The first or the last position of a token axis, if that is all."""
    axis = expr.axes[0]
    first = STARTS.get(host.base(axis), "")
    if not first or expr.op not in ("amin", "amax"):
        return None
    if expr != Reduce(expr.op, (axis,), Index(axis, kind=Kind.INT), kind=Kind.INT):
        return None
    code = first if expr.op == "amin" else f"({first} + {host.size(axis)} - 1)"
    return Value(code, (), Kind.INT, plain=True)


def _place(host: Host, expr: Reduce) -> Value:
    """Where the greatest value along an axis is: an index, for tokens a position."""
    (axis,) = expr.axes
    body, allowed = _allowed(host, _spread(host, expr.body, axis), expr.where)
    dims = tuple(d for d in body.dims if d != axis)
    first = STARTS.get(host.base(axis), "0")
    code = f"argmax({body.code}, {host.dim(body, axis)}, {allowed}, {first})"
    return host.assign(code, dims, Kind.INT, body.grouped if "h" in dims else "")


def _cutoff(host: Host, expr: Reduce) -> Value:
    """The place of the first index of a range that is not among the first of it."""
    [axis] = expr.axes
    assert isinstance(expr.body, Apply)
    assert isinstance(expr.where, Apply)
    place, count = (host.ungrouped(host.emit(x)) for x in expr.body.args)
    parts = expr.where.args if expr.where.op == "and" else (expr.where,)
    ends = {p.op: host.ungrouped(host.emit(p.args[1])) for p in parts if isinstance(p, Apply)}
    free = {d for value in (place, count, *ends.values()) for d in value.dims}
    dims = host.order(free - {axis})
    codes = {op: host.aligned(value, dims) for op, value in ends.items()}
    lead = tuple(d for d in dims if d not in STARTS)
    places, counts = host.aligned(place, (*lead, axis)), host.aligned(count, dims)
    limits = ", ".join(codes.get(op, "None") for op in ("ge", "le"))
    code = f"cutoff({places}, {counts}, {limits}, {STARTS[host.base(axis)]})"
    return host.assign(code, dims, Kind.INT)


def _allowed(host: Host, body: Value, where: Expr | None) -> tuple[Value, str]:
    """`body` over the dimensions of both, and what says which of it takes part."""
    if where is None:
        return body, "None"
    body, mask = host.matched(body, host.emit(where))
    return body, mask.code


def normalize(host: Host, expr: Normalize) -> Value:
    """A softmax over axes."""
    if expr.op != "softmax" or expr.mask is not None:
        raise Unsupported(f"a pairwise {expr.op} outside the kernel")
    body = host.widen(_spread(host, expr.body, *expr.axes), Kind.FLOAT)
    body, allowed = _allowed(host, body, expr.where)
    sink = "None"
    if expr.sink is not None:
        sink = host.aligned(host.wide(expr.sink), body.dims)
    at = repr(tuple(host.dim(body, a) for a in expr.axes))
    return host.like(body, f"softmax({body.code}, {at}, {allowed}, {sink})")


def rope(host: Host, expr: Rope) -> Value:
    """A rotation of pairs of channels by positions."""
    body = host.emit(expr.body)
    dims = host.order({*body.dims, *(d for p in expr.positions for d in p.free)})
    base = host.emit(expr.base)
    places = [host.widen(host.wide(p), Kind.FLOAT) for p in expr.positions]
    if any(p.plain for p in places):
        raise Unsupported("a rotation by a constant position")
    inner = tuple(d for d in dims if d != expr.axis)
    if dims[-1] != expr.axis:
        raise Unsupported("a rotation of two channel axes")
    codes = ", ".join(host.aligned(p, inner) for p in places)
    ungroup = any("h" in p.dims for p in places)
    code = f"rope({host.aligned(body, dims, ungroup)}, [{codes}], {base.code})"
    return host.assign(code, dims, Kind.FLOAT, "" if ungroup else body.grouped)


def concat(host: Host, expr: Concat) -> Value:
    """Channel axes one after the other."""
    values = [(own, _spread(host, part, own)) for own, part in expr.parts]
    others = host.order({d for own, v in values for d in v.dims if d != own})
    groups = {v.grouped for _, v in values if "h" in v.dims}
    codes = [host.aligned(v, (*others, own), len(groups) > 1) for own, v in values]
    grouped = "" if len(groups) > 1 else next(iter(groups), "")
    code = f"concatenate([{', '.join(codes)}])"
    return host.assign(code, (*others, expr.axis), Kind.FLOAT, grouped)


def cumsum(host: Host, expr: Cumsum) -> Value:
    """Sums up to every index of an axis."""
    body = _spread(host, expr.body, expr.axis)
    if expr.where is not None:
        body = _masked(host, body, expr.where, "0")
    return host.like(body, f"torch.cumsum({body.code}, {host.dim(body, expr.axis)})")


def rank(host: Host, expr: Rank) -> Value:
    """How many indices of an axis come before each."""
    body, allowed = _allowed(host, _spread(host, expr.body, expr.axis), expr.where)
    code = f"rank({body.code}, {host.dim(body, expr.axis)}, {allowed})"
    return host.assign(code, body.dims, Kind.INT, body.grouped)
