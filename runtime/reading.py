"""Reads: arguments, definitions and states of a spec at any indices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from attnspec.dsl import ast
from attnspec.runtime.axes import side
from attnspec.runtime.extents import OPERATIONS, fold
from attnspec.runtime.gather import Rows, gather
from attnspec.runtime.named import Named

if TYPE_CHECKING:
    from attnspec.runtime.reference import Evaluator

At: TypeAlias = Mapping[str, int]


def read(e: Evaluator, node: ast.Read, at: At) -> Named:
    """The value of a read, time variables standing at the positions `at`."""
    pad = None if node.pad is None else e.value(node.pad, at)
    if e.spec.state(node.name) is not None:
        return _read_state(e, node, pad, at)
    definition = e.spec.definition(node.name)
    if definition is None:
        return _read_argument(e, node, pad, at)
    own = dict(zip(definition.axes, node.index, strict=True))
    here: dict[str, int] = {}
    if e.states.pending(node.name):
        found = {a: _number(e, x, at) for a, x in own.items()}
        here = {a: n for a, n in found.items() if n is not None}
    key = (node.name, *sorted(here.items()))
    value = e.memo.get(key)
    if value is None:
        value = e.memo[key] = e.value(definition.expr, here)
    if pad is not None:
        dims = tuple(dict.fromkeys((*(a for a in definition.axes if a not in here), *value.dims)))
        value = Named(value.full(dims, e.sizes), dims)
    # Through the mask a value may depend on b and h that its definition does not list.
    rows = [
        row_of(e, own[d], n, e.start(d), at) if d in own else d
        for d, n in zip(value.dims, value.tensor.shape, strict=True)
    ]
    return gather(value.tensor, rows, pad)


def _read_state(e: Evaluator, node: ast.Read, pad: Named | None, at: At) -> Named:
    state = e.spec.state(node.name)
    assert state is not None
    time = node.index[2]
    first, steps = e.start(state.time), e.sizes[state.time]
    row: Rows
    if e.states.advancing(node.name):
        position = _number(e, time, at)
        assert position is not None, f"{node.name} is read at no single step of itself"
        tensor, row = e.states.at(node.name, position).unsqueeze(2), 0
    else:
        tensor = e.states.history(node.name)
        if isinstance(time, ast.Last):
            row = 0 if state.reverse else steps
        else:
            tensor = tensor if not _is_now(time) else e.states.new(node.name)
            before = 0 if state.reverse or _is_now(time) else 1
            row = row_of(e, time, tensor.shape[2], first - before, at)
    others = [
        row_of(e, x, n, e.start(a), at)
        for a, x, n in zip(state.axes, node.index, tensor.shape, strict=True)
        if a != state.time
    ]
    return gather(tensor, [*others[:2], row, *others[2:]], pad)


def _read_argument(e: Evaluator, node: ast.Read, pad: Named | None, at: At) -> Named:
    decl = e.spec.decl(node.name)
    assert decl is not None
    if node.name in e.bound.scalars:
        return e.constant(e.bound.scalars[node.name])
    sides = [side(e.spec, a) for a in decl.axes]
    part = 0
    if decl.paired:
        token = next(n for n, s in enumerate(sides) if s is not None)
        index = node.index[token]
        queries = isinstance(index, ast.Index) and side(e.spec, index.axis) == "i"
        part = 0 if queries else 1
        sides[token] = "i" if queries else "j"
    tensor = tensor_of(e, decl, part)
    rows: list[Rows] = []
    for axis, index, own, size in zip(decl.axes, node.index, sides, tensor.shape, strict=True):
        start = 0 if own is None else e.bound.start(own)
        if axis == "b" and size == 1:
            rows.append(0)
        elif axis == "h" and size != e.count("h"):
            rows.append(_shared_head(e, index, e.count("h") // size, at))
        else:
            rows.append(row_of(e, index, size, start, at))
    return gather(tensor, rows, pad)


def tensor_of(e: Evaluator, decl: ast.Decl, part: int) -> Tensor:
    """An argument's values in the dtype of the computation."""
    key = (decl.name, part)
    if key not in e.tensors:
        kinds = {ast.Kind.BOOL: torch.bool, ast.Kind.INT: torch.int64}
        dtype = kinds.get(decl.kind, e.dtype)
        if decl.form is ast.Form.CONST:
            value = torch.tensor(decl.values, device=e.bound.device)
        else:
            given = e.bound.tensors[decl.name]
            value = given[part] if isinstance(given, tuple) else given
        e.tensors[key] = value.to(dtype)
    return e.tensors[key]


def _shared_head(e: Evaluator, index: ast.Expr, group: int, at: At) -> Rows:
    """The head of an operand with fewer heads, each read by `group` query heads."""
    row = row_of(e, index, -1, 0, at)
    if isinstance(row, int):
        return row // group
    assert isinstance(row, Named)
    return Named(torch.div(row.tensor, group, rounding_mode="floor"), row.dims)


def row_of(e: Evaluator, index: ast.Expr, size: int, start: int, at: At) -> Rows:
    """Where a dimension with `size` rows from `start` is read."""
    number = _number(e, index, at)
    if number is not None:
        return number - start
    if isinstance(index, ast.Index):
        axis = index.axis
        if e.spans(axis, start, size):
            return axis
    value = e.value(index, at)
    return Named(value.tensor - start, value.dims)


def _number(e: Evaluator, expr: ast.Expr, at: At) -> int | None:
    """The value of an integer expression of time variables and numbers alone."""
    if any(a not in at for a in expr.free):
        return None
    match expr:
        case ast.Index(axis=axis):
            return at[axis]
        case ast.Literal(value=value) if isinstance(value, int):
            return value
        case ast.Apply(op=op, args=args) if op in OPERATIONS:
            numbers = [_number(e, a, at) for a in args]
            known = [n for n in numbers if n is not None]
            return fold(op, known) if len(known) == len(numbers) else None
        case ast.Size() | ast.Last() | ast.Coord() | ast.Read() if expr.kind is ast.Kind.INT:
            found = e.value(expr, at)
            return None if found.dims else int(found.tensor.item())
        case _:
            return None


def _is_now(index: ast.Expr) -> bool:
    """Whether a state is read just after a step, so that its initial value never stands there."""
    return isinstance(index, ast.Index)
