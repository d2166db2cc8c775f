"""Pointwise functions whose gradient never turns a zero into a NaN.

A masked pair, and a point where `where` takes the other branch, sends back a gradient of exactly
0. Autograd would multiply it by the derivative there, and 0 * inf is NaN: the log of 0 in a
branch not taken would ruin the gradient of everything before it. So each function with a
derivative that may be infinite passes a 0 on as a 0; sums and choices do so by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attnspec.dsl.ast import COMPARISONS, Kind
from attnspec.runtime.named import broadcast

Function: TypeAlias = "Callable[..., Tensor]"


class _Safe(torch.autograd.Function):
    """A function of tensors of one shape, pointwise or a reduction that keeps its dimensions."""

    @staticmethod
    def forward(ctx: Any, function: Function, *xs: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*xs)
        return function(*xs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()  # the gradient is to be differentiated itself
        wanted = ctx.needs_input_grad[1:]
        saved = ctx.saved_tensors
        xs = [x.detach() for x in saved]
        grads = _gradients(ctx.function, xs, wanted, grad.detach())
        zero = grad == 0
        bad = zero & ~reduce(torch.logical_and, (g.isfinite() for g in grads))
        if again:  # elsewhere as it is, for what 0 is multiplied by has a derivative
            xs = [torch.where(bad, 1, x) for x in saved]
            grads = _gradients(ctx.function, xs, wanted, grad, again)
        found = iter(grads)
        return (None, *(torch.where(bad, 0, next(found)) if w else None for w in wanted))


def _gradients(
    function: Function, xs: list[Tensor], wanted: Sequence[bool], grad: Tensor, again: bool = False
) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        xs = [
            x if x.requires_grad else x.requires_grad_(w) for x, w in zip(xs, wanted, strict=True)
        ]
        y = function(*xs)
    taken = [x for x, w in zip(xs, wanted, strict=True) if w]
    return torch.autograd.grad(y, taken, grad, create_graph=again)


def safe(function: Function, *xs: Tensor) -> Tensor:
    """`function(*xs)`; where the gradient of the result is 0, so is that of every x."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in xs):
        result: Tensor = _Safe.apply(function, *broadcast(*xs))  # type: ignore[no-untyped-call]
        return result
    return function(*xs)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of numbers that stand for themselves: positions lose digits in half precision."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def operate(op: str, kind: Kind, xs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """`op` of aligned tensors, its result of type `kind` (floats in `dtype`)."""
    match op:
        case "and":
            return reduce(torch.logical_and, xs)
        case "or":
            return reduce(torch.logical_or, xs)
        case "not":
            return torch.logical_not(xs[0])
        case "stopgrad":
            return xs[0].detach()
        case "floor" | "ceil":
            if not xs[0].is_floating_point():
                return xs[0]
            return (xs[0].floor() if op == "floor" else xs[0].ceil()).to(torch.int64)
        case "where":
            a, b = widen(xs[1:], kind, dtype)
            return torch.where(xs[0], a, b)
    if op in COMPARISONS:
        some = Kind.FLOAT if any(x.is_floating_point() for x in xs) else Kind.INT
        a, b = xs if xs[0].dtype == torch.bool else widen(xs, some, dtype)
        compare: Function = getattr(torch, op)
        return compare(a, b)
    if kind is Kind.INT:
        return _integer(op, xs)
    values = widen(xs, kind, dtype)
    result = _SUMS[op](*values) if op in _SUMS else safe(_FLOATS[op], *values)
    half = any(x.dtype == dtype for x in values)
    return result.to(dtype) if half else result


def widen(xs: Sequence[Tensor], kind: Kind, dtype: torch.dtype) -> list[Tensor]:
    """Integers as floats where `kind` is float."""
    if kind is not Kind.FLOAT:
        return list(xs)
    return [x if x.is_floating_point() else x.to(wide(dtype)) for x in xs]


def _integer(op: str, xs: Sequence[Tensor]) -> Tensor:
    match op:
        case "neg":
            return -xs[0]
        case "abs":
            return xs[0].abs()
        case "sign":
            return xs[0].sign()
        case "add":
            return xs[0] + xs[1]
        case "sub":
            return xs[0] - xs[1]
        case "mul":
            return xs[0] * xs[1]
        case "pow":
            return torch.pow(xs[0], xs[1].clamp(min=0))
        case "floordiv" | "mod":
            # A division by 0 stands where nobody looks, or the checker had refused it.
            divisor = torch.where(xs[1] == 0, 1, xs[1])
            if op == "mod":
                return torch.remainder(xs[0], divisor)
            return torch.div(xs[0], divisor, rounding_mode="floor")
        case "min":
            return reduce(torch.minimum, xs)
        case "max" | "relu":
            return reduce(torch.maximum, xs) if op == "max" else xs[0].clamp(min=0)
        case "clamp":
            return torch.clamp(xs[0], xs[1], xs[2])
        case _:
            raise AssertionError(f"{op} of integers")


def _leaky_relu(x: Tensor, slope: Tensor | None = None) -> Tensor:
    return torch.where(x > 0, x, x * (0.01 if slope is None else slope))


def _elu(x: Tensor, alpha: Tensor | None = None) -> Tensor:
    below = torch.expm1(torch.clamp(x, max=0.0))
    return torch.where(x > 0, x, below if alpha is None else alpha * below)


# These pass gradients on without multiplying them.
_SUMS: dict[str, Function] = {
    "neg": torch.neg,
    "add": torch.add,
    "sub": torch.sub,
    "min": lambda *xs: reduce(torch.minimum, xs),
    "max": lambda *xs: reduce(torch.maximum, xs),
    "relu": torch.relu,
    "sign": torch.sign,
}

_FLOATS: dict[str, Function] = {
    "mul": torch.mul,
    "div": torch.div,
    "floordiv": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "mod": torch.remainder,
    "pow": torch.pow,
    "abs": torch.abs,
    "clamp": torch.clamp,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "log": torch.log,
    "log2": torch.log2,
    "log1p": torch.log1p,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "softplus": lambda x: -F.logsigmoid(-x),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "silu": F.silu,
    "gelu": F.gelu,
    "erf": torch.erf,
}
