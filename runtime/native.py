"""Passes in C++ on the CPU.

A generated module holds what a pass computes for a pair, `native.h` the walk over tiles. Float32
alone; everything else runs tile by tile in PyTorch (`cpu`), which is also what stands in where
there is no compiler.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from attnspec.runtime import cpu, cpu_tiles
from attnspec.runtime.native_build import CompileError, library
from attnspec.runtime.problem import Leaf, Problem

# Multiplications of a call from which on it pays to compile: some tenth of a second in PyTorch.
WORTHWHILE = 1 << 32
_ROOM = 1 << 30  # bytes of several gradients of the same numbers, which are added up afterwards


class _View(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("b", "h", "token", "channel", "size", "part")),
    ]


_SIZES = (
    "batch", "heads", "key_heads", "rows", "columns", "q_start", "k_start", "channels", "blocks",
    "parts", "threads",
)  # fmt: skip


class _Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        ("operands", ctypes.POINTER(_View)),
        ("numbers", ctypes.POINTER(ctypes.c_double)),
        ("largest", ctypes.POINTER(ctypes.c_double)),
        ("starts", ctypes.c_void_p),
        ("runs", ctypes.c_void_p),
        ("grads", ctypes.POINTER(_View)),
        *((name, _View) for name in ("out", "lse", "delta", "d_out", "ungated")),
    ]


def made_for(call: Problem, backend: str) -> ctypes.CDLL | None:
    """The library that runs a call; None if that is for PyTorch.

    With `backend` "native" always where there is a pass in C++, with "auto" if its library exists
    already or the call is long enough to compile it.
    """
    if backend == "cpu" or not call.plan.native or call.dtype is not torch.float32:
        return None
    if 0 in (call.batch, call.heads, call.rows, call.columns):
        return None
    width = 1 if call.value is None else call.value.shape[-1]
    work = call.batch * call.heads * call.rows * call.columns * width
    try:
        return library(call.plan.native, backend == "native" or work >= WORTHWHILE)
    except CompileError as error:
        if backend == "native":
            raise
        warnings.warn(f"PyTorch runs what the C++ compiler refuses: {error}", stacklevel=2)
        return None


def forward(call: Problem, made: ctypes.CDLL, out: Tensor, lse: Tensor) -> bool:
    """Write the weighted sum before any gate to `out` [B, H, M, E], or the sum of the weights to
    `out` [B, H, M], and of a softmax the natural log-sum-exp to `lse` [B, H, M]; False where an
    operand is not finite or of another kind: that is for PyTorch."""
    views = {"out": _of_rows(out)} if out.numel() else {}
    views |= {"lse": _tokens(lse)} if call.plan.softmax else {}
    return _run(made.forward, call, made, 1, views, {})


def backward(
    call: Problem,
    made: ctypes.CDLL,
    grads: tuple[Tensor, Tensor],
    lse: Tensor,
    delta: Tensor,
    wanted: frozenset[str],
) -> dict[str, Tensor] | None:
    """Gradients as `cpu.backward` gives them; None as in `forward`."""
    plan = call.plan
    grad, of_gated = grads
    if grad.dtype is not torch.float32:
        return None
    groups, threads = call.batch * call.key_heads, torch.get_num_threads()
    blocks = -(-call.rows // made.block_rows())
    # several threads share a head's rows, each with gradients of its keys to itself
    each = max(sum(x.numel() for x in call.tensors.values()) * 4, 1)
    parts = max(min(-(-threads // groups), blocks, _ROOM // each), 1)
    apart = {plan.gate, *(n for weight in plan.weights for n in weight.of_row)}
    mine = [n for n in plan.grads if n in wanted - apart]
    leaves = {leaf.operand: leaf for leaf in plan.leaves}
    room = {n: _room(call, n, leaves.get(n), parts, made.panel()) for n in mine}
    views = {"d_out": _of_rows(grad)} if grad.numel() else {}
    if plan.softmax:
        views |= {"lse": _tokens(lse), "delta": _tokens(delta)}
    ungated = None
    if plan.gate in wanted:
        ungated = torch.empty(of_gated.shape)
        views["ungated"] = _vectors(ungated)
    if not _run(made.backward, call, made, parts, views, room):
        return None
    found = {n: _summed(call, n, x) for n, x in room.items() if x is not None}
    if ungated is not None and plan.gate is not None:
        found[plan.gate] = cpu.of_gate(call, ungated, of_gated)
    return found


def _run(
    function: Any,
    call: Problem,
    made: ctypes.CDLL,
    parts: int,
    views: Mapping[str, _View],
    grads: Mapping[str, Tensor | None],
) -> bool:
    """Call a function of a library; False if it is not for this call."""
    if any(x is None for x in grads.values()):
        return False
    plan = call.plan
    leaves = {leaf.operand: leaf for leaf in plan.leaves}
    read = {n: _readable(x, leaves.get(n)) for n, x in call.tensors.items()}
    if any(x is None for x in read.values()):
        return False
    operands = [_view(x, leaves.get(n)) for n, x in read.items() if x is not None]
    into = [_into(call, n, leaves.get(n), grads.get(n)) for n in call.tensors]
    visits = cpu_tiles.visits(call, made.block_rows())
    starts = torch.tensor([0, *map(len, visits)]).cumsum(0)
    runs = torch.tensor([*chain.from_iterable(chain.from_iterable(visits)), 0])
    sizes = [
        call.batch, call.heads, call.key_heads, call.rows, call.columns, call.q_start, call.k_start,
        1 if call.value is None else call.value.shape[-1], len(visits), parts,
        torch.get_num_threads(),
    ]  # fmt: skip
    numbers = [float(call.numbers[n]) for n in plan.numbers]
    given = _Call(
        *sizes,
        (_View * len(operands))(*operands),
        (ctypes.c_double * max(len(numbers), 1))(*numbers),
        (ctypes.c_double * len(operands))(*(_largest(x) for x in read.values())),
        starts.data_ptr(),
        runs.data_ptr(),
        (_View * len(into))(*into),
        **views,
    )
    return bool(function(ctypes.byref(given)) == 0)


def _readable(x: Tensor, leaf: Leaf | None) -> Tensor | None:
    """A tensor as C++ reads it: float32 or int32, products' operands always float32, and along what
    one row reads without gaps. None for other floats and for integers of more bits."""
    if x.is_floating_point():
        if x.dtype is not torch.float32:
            return None
    elif leaf is None:
        x = x.to(torch.float32)
    elif x.dtype is not torch.int32:
        if x.dtype is not torch.bool and _largest(x) >= 2**31:
            return None
        x = x.to(torch.int32)
    along = leaf is not None and leaf.role not in ("row", "head")
    return x.contiguous() if along and x.stride(-1) != 1 else x


def _largest(x: Tensor | None) -> float:
    """The largest size of a whole number in a tensor; 0 for floats."""
    if x is None or x.is_floating_point() or x.numel() == 0:
        return 0.0
    if x.dtype is torch.bool:
        return 1.0
    return float(max(map(abs, (int(end) for end in x.aminmax()))))


def _stride(x: Tensor, axis: int) -> int:
    return 0 if x.shape[axis] == 1 else x.stride(axis)


def _tokens(x: Tensor, part: int = 0) -> _View:
    """A number for each token, [B, H, tokens]; [B, H] where it is one for a head."""
    token = x.stride(2) if x.dim() > 2 else 0
    return _View(x.data_ptr(), _stride(x, 0), _stride(x, 1), token, 0, 1, part)


def _vectors(x: Tensor, part: int = 0) -> _View:
    """[B, H, tokens, channels]."""
    strides = _stride(x, 0), _stride(x, 1), x.stride(2), x.stride(3)
    return _View(x.data_ptr(), *strides, x.shape[3], part)


def _table(x: Tensor, part: int = 0) -> _View:
    """[B or 1, H or 1, entries]."""
    return _View(x.data_ptr(), _stride(x, 0), _stride(x, 1), 0, 1, x.shape[2], part)


def _view(x: Tensor, leaf: Leaf | None, part: int = 0) -> _View:
    """An operand, or one of several tensors like it."""
    if leaf is not None and leaf.role == "table":
        return _table(x, part)
    return _of_rows(x, part)


def _of_rows(x: Tensor, part: int = 0) -> _View:
    """A vector or a number for each token."""
    return _vectors(x, part) if x.dim() == 4 else _tokens(x, part)


def _into(call: Problem, name: str, leaf: Leaf | None, room: Tensor | None) -> _View:
    """Where a gradient goes."""
    if room is None:
        return _View()
    if room.dim() == call.tensors[name].dim():
        return _view(room, leaf)
    return _view(room[0], leaf, room.stride(0))


def _room(call: Problem, name: str, leaf: Leaf | None, parts: int, panel: int) -> Tensor | None:
    """Zeros for the gradient of an operand, those of keys, heads and tables for each part; None
    where several heads would share numbers."""
    x, lead = call.tensors[name], (call.batch, call.heads)
    if leaf is None:
        columns = name == call.plan.value or name in {y for _, _, y in call.plan.dots}
        if not columns:
            return torch.zeros(x.shape)
        return torch.zeros(parts, *x.shape[:3], -(-x.shape[3] // panel) * panel)
    if leaf.role in ("row", "row_table", "pair"):
        return torch.zeros(x.shape) if x.shape[:2] == lead else None
    return torch.zeros(parts, *(lead if leaf.role == "table" else x.shape[:2]), *x.shape[2:])


def _summed(call: Problem, name: str, found: Tensor) -> Tensor:
    """The gradient of an operand, in its shape."""
    x = call.tensors[name]
    if found.dim() == x.dim():
        return found
    whole = found[0] if len(found) == 1 else found.sum(0)
    return whole[..., : x.shape[3]] if x.dim() == 4 else whole.sum_to_size(x.shape)
