"""PyTorch functions that generated modules call around the kernels and in the CPU tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from math import log
from typing import Any

import torch
from torch import Tensor

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.shapes import broadcast


def all_heads(x: Tensor, axis: int, heads: int) -> Tensor:
    """Repeat key heads so that dimension `axis` counts query heads: h reads h // (H / heads)."""
    have = x.shape[axis]
    return x if have in (heads, 1) else x.repeat_interleave(heads // have, dim=axis)


def in_lanes(x: Tensor, heads: int | None, *lanes: int) -> Tensor:
    """x [B, lanes.., H, ...] as [B, lanes.. * H, ...], each dimension there or 1: with all lanes if
    anything differs, and with `heads` heads if that is a number."""
    count = len(lanes) + 1
    have = x.shape[1 : count + 1]
    if any(size != 1 for size in have):
        x = x.expand(
            -1, *lanes, have[-1] if heads is None else heads, *[-1] * (x.dim() - count - 1)
        )
    return x.flatten(1, count)


def from_lanes(x: Tensor, at: int, *sizes: int) -> Tensor:
    """x with its dimension `at` as lanes and heads of these numbers."""
    return x.view(*x.shape[:at], *sizes, *x.shape[at + 1 :])


def _tensor(x: Tensor | float, like: Tensor | float) -> Tensor:
    if isinstance(x, Tensor):
        return x
    assert isinstance(like, Tensor)
    return torch.full((), x, dtype=like.dtype, device=like.device)


def minimum(x: Tensor | float, y: Tensor | float) -> Tensor:
    """Element-wise minimum; a tie shares its gradient."""
    return torch.minimum(_tensor(x, y), _tensor(y, x))


def maximum(x: Tensor | float, y: Tensor | float) -> Tensor:
    """Element-wise maximum; a tie shares its gradient."""
    return torch.maximum(_tensor(x, y), _tensor(y, x))


def clamp(x: Tensor | float, low: Tensor | float, high: Tensor | float) -> Tensor:
    """x limited to [low, high]; the gradient passes to x inside, edges included."""
    like = next(v for v in (x, low, high) if isinstance(v, Tensor))
    return torch.clamp(_tensor(x, like), _tensor(low, like), _tensor(high, like))


def quotient(x: Tensor | int, y: Tensor | int) -> Tensor:
    """Floor division of integers, anything by 0."""
    return torch.div(_tensor(x, y), _divisor(y), rounding_mode="floor")


def remainder(x: Tensor | int, y: Tensor | int) -> Tensor:
    """What floor division leaves, anything by 0."""
    return torch.remainder(_tensor(x, y), _divisor(y))


def below(x: Tensor, limit: Tensor | int, right: bool = False) -> Tensor:
    """How many of the ascending integers x [B', H', N] are less than each limit [.., R, C]."""
    limit = torch.as_tensor(limit, device=x.device)
    lead = broadcast(x.shape[:-1], limit.shape[:-2])
    limit = limit.expand(*lead, *(limit.shape[-2:] if limit.dim() > 1 else (1, 1))).long()
    x = x.expand(*lead, x.shape[-1]).long().contiguous()
    flat = limit.flatten(-2).contiguous()
    return torch.searchsorted(x, flat, right=right).view(limit.shape)


def upto(x: Tensor, limit: Tensor | int) -> Tensor:
    """How many of the ascending integers x [B', H', N] are not more than each limit [.., R, C]."""
    return below(x, limit, right=True)


def _divisor(y: Tensor | int) -> Tensor | int:
    return torch.where(y == 0, 1, y) if isinstance(y, Tensor) else y or 1


def softplus(x: Tensor) -> Tensor:
    """log(1 + e ** x) without a linear cut-off."""
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device))


def leaky_relu(x: Tensor, slope: Tensor | float) -> Tensor:
    """x where positive, else slope * x."""
    return torch.where(x > 0, x, x * slope)


def spread(x: Tensor | float, like: Tensor) -> Tensor:
    """x expanded over the dimensions of both."""
    if not isinstance(x, Tensor):
        x = torch.full((), x, device=like.device)
    return x.expand(broadcast(x.shape, like.shape))


class _Safe(torch.autograd.Function):
    """A function whose gradient is 0 where that of its result is, even past an infinite slope."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, *xs: Tensor) -> Tensor:
        return _SAFE[name](*xs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = inputs[0]
        ctx.save_for_backward(output, *inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, *xs = ctx.saved_tensors
        slopes = _SLOPES[ctx.name](y, *xs)
        unread = grad == 0  # yet what 0 is multiplied by has a derivative
        return None, *(grad * torch.where(unread & ~s.isfinite(), 0.0, s) for s in slopes)


_SAFE: dict[str, Callable[..., Tensor]] = {
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "log": torch.log,
    "log2": torch.log2,
    "log1p": torch.log1p,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
}
_SLOPES: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "sqrt": lambda y, x: (0.5 / y,),
    "rsqrt": lambda y, x: (-0.5 * y / x,),
    "log": lambda y, x: (1 / x,),
    "log2": lambda y, x: (1 / (x * log(2.0)),),
    "log1p": lambda y, x: (1 / (1 + x),),
    "exp": lambda y, x: (y,),
    "exp2": lambda y, x: (y * log(2.0),),
    "mul": lambda y, a, b: (b, a),
    "div": lambda y, a, b: (1 / b, -y / b),
    "pow": lambda y, x, n: (
        torch.where(n == 0, 0.0, n * x ** (n - 1)),
        torch.where(y == 0, 0.0, y * torch.log(x)),
    ),
}


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root."""
    return _safe("sqrt", x)


def safe_rsqrt(x: Tensor) -> Tensor:
    """1 / square root."""
    return _safe("rsqrt", x)


def logaddexp(x: Tensor | float, y: Tensor | float) -> Tensor:
    """log(exp(x) + exp(y)); -inf, without a gradient, where both are."""
    x, y = _tensor(x, y), _tensor(y, x)
    none = torch.isneginf(x) & torch.isneginf(y)
    both = torch.logaddexp(torch.where(none, 0.0, x), torch.where(none, 0.0, y))
    return torch.where(none, float("-inf"), both)


def logsumexp(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """log(sum(exp(x))) over `dims`; -inf, without a gradient, where all are."""
    none = torch.isneginf(x).all(dims, keepdim=True)
    total = torch.logsumexp(torch.where(none, 0.0, x), dims)
    return torch.where(none.squeeze(dims), float("-inf"), total)


def safe_log(x: Tensor) -> Tensor:
    """Natural logarithm."""
    return _safe("log", x)


def safe_log2(x: Tensor) -> Tensor:
    """Logarithm in base 2."""
    return _safe("log2", x)


def safe_log1p(x: Tensor) -> Tensor:
    """log(1 + x)."""
    return _safe("log1p", x)


def safe_exp(x: Tensor) -> Tensor:
    """e ** x."""
    return _safe("exp", x)


def safe_exp2(x: Tensor) -> Tensor:
    """2 ** x."""
    return _safe("exp2", x)


def safe_mul(*xs: Tensor | float) -> Tensor:
    """The product of all, one of them a tensor."""
    some = next(x for x in xs if isinstance(x, Tensor))
    return reduce(
        lambda x, y: _safe("mul", *torch.broadcast_tensors(x, y)),
        (_tensor(x, some) for x in xs),
    )


def safe_div(x: Tensor | float, y: Tensor) -> Tensor:
    """x / y."""
    return _safe("div", *torch.broadcast_tensors(_tensor(x, y), y))


def safe_pow(x: Tensor | float, n: Tensor | float) -> Tensor:
    """x ** n."""
    return _safe("pow", *torch.broadcast_tensors(_tensor(x, n), _tensor(n, x)))


def _safe(name: str, *xs: Tensor) -> Tensor:
    y: Tensor = _Safe.apply(name, *xs)  # type: ignore[no-untyped-call]
    return y


def amax(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Greatest value along several dimensions, the least number of none; the first of equal ones
    gets the gradient."""
    return _together(_some(x, dims, lowest(x)), dims).max(-1).values


def amin(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Least value along several dimensions, the greatest number of none; the first of equal ones
    gets the gradient."""
    return _together(_some(x, dims, highest(x)), dims).min(-1).values


def argmax(x: Tensor, dim: int, where: Tensor | None, start: int) -> Tensor:
    """The first place of the greatest value along `dim`, counted from `start`, among `where`; 0 of
    none. What is not a number is above all."""
    x = x.detach()
    shown = x if where is None else torch.where(where, x, lowest(x))
    found = (x == amax(shown, (dim,)).unsqueeze(dim)) | x.isnan()
    if where is not None:
        found = found & where
    found = _some(found, (dim,), 0)
    return torch.where(found.any(dim), found.to(torch.int8).argmax(dim) + start, 0)


def _together(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x with several dimensions as its last, in their order."""
    places = tuple(range(-len(dims), 0))
    return x.movedim(dims, places).flatten(places[0])


def lowest(x: Tensor) -> float | int:
    """What is below everything that x can hold."""
    return float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min


def highest(x: Tensor) -> float | int:
    """What is above everything that x can hold."""
    return float("inf") if x.is_floating_point() else torch.iinfo(x.dtype).max


def in_blocks(x: Tensor, dim: int, length: int, first: int, fill: float) -> Tensor:
    """Dimension `dim`, tokens from position `first` on, as two: blocks of `length` from position 0
    on, and the places in one; `fill` where there is no token."""
    shape = list(x.shape)
    total = first + shape[dim]
    pads = [
        x.new_full((*shape[:dim], n, *shape[dim + 1 :]), fill) for n in (first, -total % length)
    ]
    blocks = (total + length - 1) // length
    every = torch.cat((pads[0], x, pads[1]), dim)
    return every.reshape(*shape[:dim], blocks, length, *shape[dim + 1 :])


def mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean along several dimensions, 0 of none."""
    return _some(x, dims, 0.0).mean(dims)


def _some(x: Tensor, dims: tuple[int, ...], empty: float) -> Tensor:
    """x, with one entry `empty` along those of `dims` that have none."""
    shape = list(x.shape)
    for dim in dims:
        shape[dim] = max(shape[dim], 1)
    return x if shape == list(x.shape) else x.new_full(shape, empty)


def product(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Product over several dimensions."""
    for dim in sorted(dims, reverse=True):
        x = x.prod(dim)
    return x


def rank(x: Tensor, dim: int, where: Tensor | None) -> Tensor:
    """Place along `dim` in descending order, ties by lower index; the size where excluded."""
    x = x.detach()
    if where is None:
        order = torch.argsort(x, dim=dim, descending=True, stable=True)
        return torch.argsort(order, dim=dim)
    where = where.expand(x.shape)
    last = torch.finfo(x.dtype).min if x.is_floating_point() else torch.iinfo(x.dtype).min
    order = torch.argsort(x.masked_fill(~where, last), dim=dim, descending=True, stable=True)
    taken = torch.gather(where, dim, order)
    place = torch.empty_like(order).scatter_(dim, order, torch.cumsum(taken, dim) - 1)
    return torch.where(where, place, x.shape[dim])


def cutoff(
    place: Tensor,
    count: Tensor | int,
    first: Tensor | int | None,
    last: Tensor | int | None,
    start: int,
) -> Tensor:
    """The place of the first index from `first` to `last` that is not among the `count` first of
    them; N where there is none. [.., M]

    `place` [.., N] holds every number below N once. Positions count from `start`. As many steps
    over N + M numbers as N has binary digits: each sorts by one digit of the place and follows
    every range to where the index looked for must be (Claude, Navarro and Ordonez: the wavelet
    matrix, 2015).
    """
    size, device = place.shape[-1], place.device
    low = torch.as_tensor(0 if first is None else first - start, device=device).clamp(0, size)
    high = torch.as_tensor(size if last is None else last - start + 1, device=device)
    high = high.clamp(0, size).maximum(low)
    left = torch.as_tensor(count, device=device).clamp(min=0)
    low, high, left = (x.long() for x in torch.broadcast_tensors(low, high, left))
    if low.dim() == 0:
        low, high, left = (x[None] for x in (low, high, left))
    lead = broadcast(place.shape[:-1], low.shape[:-1])
    place = place.long().expand(*lead, size)
    low, high, left = (x.expand(*lead, x.shape[-1]) for x in (low, high, left))
    none, found = left >= high - low, torch.zeros_like(left)
    for digit in reversed(range(max(size - 1, 0).bit_length())):
        zero = (place >> digit) % 2 == 0
        before = torch.nn.functional.pad(torch.cumsum(zero, -1), (1, 0))
        here, there = before.gather(-1, low), before.gather(-1, high)
        among = there - here
        inside = left < among
        total, before = before[..., -1:], before[..., :-1]
        low = torch.where(inside, here, total + low - here)
        high = torch.where(inside, there, total + high - there)
        left = torch.where(inside, left, left - among)
        found = torch.where(inside, found, found + (1 << digit))
        at = torch.where(zero, before, total + torch.arange(size, device=device) - before)
        place = torch.empty_like(place).scatter_(-1, at, place)
    return torch.where(none, size, found)


def softmax(
    x: Tensor, dims: tuple[int, ...], where: Tensor | None, sink: Tensor | float | None
) -> Tensor:
    """Softmax over several dimensions among `where`, with one more logit that takes mass.

    Nothing included gives 0 everywhere.
    """
    shown = x if where is None else x.masked_fill(~where, float("-inf"))
    top = torch.amax(_some(shown, dims, 0.0), dims, keepdim=True).detach()
    if sink is not None:
        top = maximum(top, sink.detach() if isinstance(sink, Tensor) else sink)
    top = torch.where(torch.isfinite(top), top, 0.0)
    weight = torch.exp(shown - top)
    total = weight.sum(dims, keepdim=True)
    if sink is not None:
        total = total + torch.exp((sink if isinstance(sink, Tensor) else _tensor(sink, x)) - top)
    return weight / torch.where(total == 0, 1.0, total)


def rope(x: Tensor, positions: Sequence[Tensor], base: float | Tensor) -> Tensor:
    """Rotary embedding of the last dimension, one equal channel group for each position.

    In a group of width w channel c < w/2 pairs with c + w/2 at angle p * base ** (-2 c / w).
    """
    width = x.shape[-1] // len(positions)
    if width * len(positions) != x.shape[-1] or width % 2:
        raise AttnError(
            f"rope: expected a channel axis that splits into {len(positions)} even groups,"
            f" got {x.shape[-1]} channels"
        )
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    step = torch.arange(width // 2, device=x.device, dtype=wide) * (-2.0 / width)
    frequency = torch.as_tensor(base, dtype=wide, device=x.device) ** step
    parts = []
    for place, group in zip(positions, x.to(wide).split(width, dim=-1), strict=True):
        angle = place.to(wide)[..., None] * frequency
        first, second = group.split(width // 2, dim=-1)
        cos, sin = torch.cos(angle), torch.sin(angle)
        parts.append(torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1))
    return torch.cat(parts, dim=-1)


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Join along the last dimension, the others broadcast."""
    shape = broadcast(*(p.shape[:-1] for p in parts))
    return torch.cat([p.expand(*shape, p.shape[-1]) for p in parts], dim=-1)


def hold(condition: Tensor | bool, name: str, fact: str) -> None:
    """Assert a fact of the spec at the call: at once on a CPU, asynchronously on a GPU."""
    if isinstance(condition, bool):
        if not condition:
            raise AttnError(f"{name}: expected {fact}, which does not hold for this call")
    elif condition.device.type == "cuda" or torch.compiler.is_compiling():
        torch._assert_async(condition.all(), f"{name}: expected {fact}")
    elif not bool(condition.all()):
        raise AttnError(f"{name}: expected {fact}, which does not hold for this call")
