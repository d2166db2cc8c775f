"""Reductions and normalisers over named dimensions, with excluded indices.

`keep` says which indices take part. A value at an excluded index may be anything, NaN included:
neither it nor its gradient reaches a result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnspec.runtime.named import Named, broadcast, join
from attnspec.runtime.pointwise import safe

Sizes = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rounding:
    """How far off, relative and of either sign, what a pass gives a later one is, and the gradients
    that come back. The signs follow from `seed`."""

    numbers: float
    gradients: float
    seed: int


def sum_product(
    factors: Sequence[Named], axes: Sequence[str], keep: Named | None, sizes: Sizes
) -> Named:
    """Sum over `axes` of the product of float `factors`."""
    dims = join(*factors, keep)
    rest = tuple(d for d in dims if d not in axes)
    if all(bool(f.tensor.isfinite().all()) for f in factors):
        if keep is not None:
            # The factor that shares most with `keep` takes it, so that the least is written out.
            best = max(range(len(factors)), key=lambda n: len({*factors[n].dims} & {*keep.dims}))
            joint = join(factors[best], keep)
            kept = torch.where(keep.over(joint), factors[best].over(joint), 0)
            factors = [Named(kept, joint) if n == best else f for n, f in enumerate(factors)]
        missing = [a for a in axes if not any(a in f.dims for f in factors)]
        scale = math.prod(sizes[a] for a in missing)
        names = {
            d: chr(ord("a") + n) if n < 26 else chr(ord("A") + n - 26) for n, d in enumerate(dims)
        }
        inputs = ",".join("".join(names[d] for d in f.dims) for f in factors)
        dtype = max((f.tensor.dtype for f in factors), key=lambda t: t.itemsize)
        equation = (
            f"{inputs}->{''.join(names[d] for d in rest if any(d in f.dims for f in factors))}"
        )
        total = torch.einsum(equation, *(f.tensor.to(dtype) for f in factors))
        low = min((f.tensor.dtype for f in factors), key=lambda t: t.itemsize)
        total = (total if scale == 1 else total * scale).to(low)
        return Named(total, tuple(d for d in rest if any(d in f.dims for f in factors)))
    # Something is infinite or NaN: it must not meet the 0 of an excluded index.
    dims = (*rest, *axes)
    product: Tensor | None = None
    for factor in factors:
        x = factor.over(dims)
        if keep is not None:
            x = torch.where(keep.over(dims), x, 0)
        product = x if product is None else safe(torch.mul, product, x)
    assert product is not None
    full = Named(product, dims).tensor.expand(_shape(product, dims, axes, sizes))
    return Named(full.sum(_last(axes)), rest)


def mean_product(
    factors: Sequence[Named], axes: Sequence[str], keep: Named | None, sizes: Sizes
) -> Named:
    """Mean over `axes` of the product of float `factors`; 0 where nothing is kept."""
    total = sum_product(factors, axes, keep, sizes)
    if keep is None:
        count = math.prod(sizes[a] for a in axes)
        return Named(total.tensor / max(count, 1), total.dims)
    dims = tuple(d for d in keep.dims if d not in axes)
    kept = keep.over((*dims, *axes))
    number = kept.expand(_shape(kept, (*dims, *axes), axes, sizes)).sum(_last(axes)).clamp(min=1)
    joint = join(total, Named(number, dims))
    scaled = total.over(joint) / Named(number, dims).over(joint)
    return Named(scaled.to(total.tensor.dtype), joint)


def reduce_over(
    op: str, body: Named, axes: Sequence[str], keep: Named | None, sizes: Sizes, start: int
) -> Named:
    """Any reduction of a single value; `start` is the first index of the axis for argmax."""
    x, k, rest = _lay_out(body, axes, keep, sizes)
    last = _last(axes)
    match op:
        case "sum":
            return Named(_fill(x, k, 0).sum(last), rest)
        case "prod":
            result = _fill(x, k, 1)
            for _ in axes:
                result = safe(lambda t: t.prod(-1, keepdim=True), result).squeeze(-1)
            return Named(result, rest)
        case "amax" | "amin":
            return Named(_extreme(op, x, k, last), rest)
        case "any":
            return Named(_fill(x, k, False).any(last) if axes else x, rest)
        case "all":
            return Named(_fill(x, k, True).all(last) if axes else x, rest)
        case "argmax":
            x = x.detach()
            top = _extreme("amax", x, k, last).unsqueeze(-1)
            at_top = _fill((x == top) | x.isnan(), k, False)
            found = at_top.any(-1)
            if x.shape[-1] == 0:
                return Named(torch.zeros_like(found, dtype=torch.int64), rest)
            return Named(torch.where(found, at_top.to(torch.int8).argmax(-1) + start, 0), rest)
        case "logsumexp":
            top, total = _exponentials(x, k, last, None)[1:]
            value = safe(torch.log, total) + top
            return Named(torch.where(total == 0, -math.inf, value).squeeze(last), rest)
        case _:
            raise AssertionError(op)


def joint(op: str, one: Named, other: Named) -> Named:
    """A reduction of two values."""
    dims = join(one, other)
    both = torch.stack(broadcast(one.over(dims), other.over(dims)), -1)
    return reduce_over(op, Named(both, (*dims, "part")), ("part",), None, {"part": 2}, 0)


def softmax(
    body: Named, axes: Sequence[str], keep: Named | None, sink: Named | None, sizes: Sizes
) -> Named:
    """Softmax over `axes`, with one more logit `sink` that takes mass; nothing kept gives 0."""
    x, k, rest = _lay_out(body, axes, keep, sizes, sink)
    last = _last(axes)
    extra = sink.over((*rest, *axes)) if sink is not None else None
    each, _, total = _exponentials(x, k, last, extra)
    weight = torch.where(total == 0, 0, safe(torch.div, each, total))
    if k is not None:  # 0 whatever the others are, even where their total is not a number
        weight = torch.where(k, weight, 0)
    return Named(weight, (*rest, *axes))


def rounded(weights: Named, body: Named, axes: Sequence[str], rounding: Rounding) -> Named:
    """Softmax weights as a kernel has them that keeps two numbers a row and rounds both.

    The log-sum-exp is off by a share of itself, the sum of the weights by one of its own, the sum
    of the weights times their gradients by a share of its terms.
    """
    logits = body.over(weights.dims).expand(weights.tensor.shape)
    if logits.numel() == 0:
        return weights
    at = [weights.dims.index(axis) for axis in axes]
    inside = weights.tensor > 0
    outside = torch.where(inside.any(at[0], True), float("-inf"), 0.0) if len(at) == 1 else 0.0
    total = torch.logsumexp(torch.where(inside, logits.detach(), outside), at, keepdim=True)
    signs = _signs(rounding, total)
    scale = torch.exp(rounding.numbers * signs[0] * (1 + total.abs()))
    offset = rounding.gradients * signs[1]
    result: Tensor = _Rounded.apply(weights.tensor, logits, scale, offset, at)  # type: ignore[no-untyped-call]
    return Named(result, weights.dims)


def rounded_sum(total: Named, rounding: Rounding) -> Named:
    """A sum over tokens whose gradient is rounded on the way to the pass that it comes from."""
    x = total.tensor
    return Named(x + (x - x.detach()) * rounding.gradients * _signs(rounding, x)[0], total.dims)


def _signs(rounding: Rounding, like: Tensor) -> Tensor:
    """1 or -1 for both numbers of every row."""
    generator = torch.Generator(device=like.device).manual_seed(rounding.seed)
    return torch.rand((2, *like.shape), generator=generator, device=like.device).round() * 2 - 1


class _RoundedGap(torch.autograd.Function):
    """x - tau, where the gradient of tau is rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: Tensor, offset: Tensor) -> Tensor:
        ctx.save_for_backward(offset)
        ctx.shape = x.shape
        return x - tau

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (offset,) = ctx.saved_tensors
        total = g.sum(-1, True) + offset * g.abs().sum(-1, True)
        return g.sum_to_size(ctx.shape), -total, None


class _Rounded(torch.autograd.Function):
    """Weights times `scale`, whose gradient is w * (g - sum(w * g)), both of them rounded."""

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, logits: Tensor, scale: Tensor, offset: Tensor, at: list[int]
    ) -> Tensor:
        ctx.save_for_backward(weights, scale, offset)
        ctx.at = at
        return weights * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        weights, scale, offset = ctx.saved_tensors
        product = weights * g
        total = product.sum(ctx.at, True)
        found = scale * total + offset * product.abs().sum(ctx.at, True)
        # what flows on through the softmax loses w * sum(w * scale * g) there
        return scale * g, weights * scale * (total - found), None, None, None


def entmax(
    body: Named,
    axis: str,
    keep: Named | None,
    alpha: Named,
    sizes: Sizes,
    rounding: Rounding | None = None,
) -> Named:
    """alpha-entmax (Peters et al. 2019) over `axis`; `alpha` above 1, 2 is sparsemax.

    The weights are max((alpha - 1) x - tau, 0) ** (1 / (alpha - 1)) with the tau that makes them
    sum to 1. It is found by bisection without a gradient; one Newton step from it, with gradient,
    leaves its value and gives it the derivative of the implicit function. With `rounding` tau is
    off by that of itself and of 1, its gradient by that of its terms.
    """
    x, k, rest = _lay_out(body, (axis,), keep, sizes, alpha)
    dtype = x.dtype
    work = torch.float64 if dtype == torch.float64 else torch.float32
    a = alpha.over((*rest, axis)).to(work) - 1
    x = safe(torch.mul, x.to(work), a)
    included = k if k is not None else torch.ones_like(x, dtype=torch.bool)
    x = torch.where(included, x, 0)
    tau = _threshold(x.detach(), included, a.detach())
    power = safe(torch.reciprocal, a)
    for _ in range(2):
        gap = x - tau
        inside = included & (gap > 0)
        base = torch.where(inside, gap, 1)
        with torch.no_grad():
            slope = torch.where(inside, base ** (power - 1) * power, 0).sum(-1, keepdim=True)
        each = torch.where(inside, safe(torch.pow, base, power), 0)
        excess = each.sum(-1, keepdim=True) - 1
        tau = tau + torch.where(slope > 0, excess / torch.where(slope > 0, slope, 1), 0)
    gap = x - tau
    if rounding is not None:
        signs = _signs(rounding, tau)
        shift = rounding.numbers * signs[0] * (tau.detach().abs() + 1)
        tau = tau + torch.minimum(torch.maximum(shift, -a), a).detach()  # at most e-fold weights
        gap = _RoundedGap.apply(x, tau, rounding.gradients * signs[1])  # type: ignore[no-untyped-call]
    inside = included & (gap > 0)
    each = torch.where(inside, safe(torch.pow, torch.where(inside, gap, 1), power), 0)
    each = torch.where(included & x.isnan().any(-1, keepdim=True), math.nan, each)
    return Named(each.to(dtype), (*rest, axis))


def _threshold(x: Tensor, included: Tensor, a: Tensor) -> Tensor:
    top = _extreme("amax", x, included, (-1,)).unsqueeze(-1)
    top = torch.where(top.isfinite(), top, 0)
    low, high = top - 1, top
    for _ in range(64 if x.dtype == torch.float64 else 40):
        middle = (low + high) / 2
        gap = torch.where(included, x - middle, 0).clamp(min=0)
        enough = (gap ** (1 / a)).sum(-1, keepdim=True) >= 1
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return low


def cumulative_sum(body: Named, axis: str, keep: Named | None, sizes: Sizes) -> Named:
    """Inclusive sum along `axis` of what is kept."""
    x, k, rest = _lay_out(body, (axis,), keep, sizes)
    return Named(_fill(x, k, 0).cumsum(-1, dtype=x.dtype), (*rest, axis))


def rank(body: Named, axis: str, keep: Named | None, sizes: Sizes) -> Named:
    """Place in descending order among what is kept, ties by lower index; else the axis' size."""
    x, k, rest = _lay_out(body, (axis,), keep, sizes)
    x = x.detach()
    if x.dtype == torch.bool:
        x = x.to(torch.int8)
    order = x.sort(dim=-1, descending=True, stable=True).indices
    if k is not None:
        order, kept = broadcast(order, k)
        out = (~kept.gather(-1, order)).to(torch.int8)
        order = order.gather(-1, out.sort(dim=-1, stable=True).indices)
    places = torch.arange(sizes[axis], device=x.device).expand(order.shape)
    ranks = torch.empty_like(order).scatter_(-1, order, places)
    return Named(_fill(ranks, k, sizes[axis]), (*rest, axis))


def _lay_out(
    body: Named, axes: Sequence[str], keep: Named | None, sizes: Sizes, other: Named | None = None
) -> tuple[Tensor, Tensor | None, tuple[str, ...]]:
    """Values and `keep` with `axes` last and of full size, and the dimensions before those."""
    rest = tuple(d for d in join(body, keep, other) if d not in axes)
    dims = (*rest, *axes)
    x = body.over(dims)
    x = x.expand(_shape(x, dims, axes, sizes))
    if keep is None:
        return x, None, rest
    k = keep.over(dims)
    k = k.expand(_shape(k, dims, axes, sizes))
    x, k = broadcast(x, k)
    return x, k, rest


def _shape(x: Tensor, dims: Sequence[str], axes: Sequence[str], sizes: Sizes) -> list[int]:
    return [sizes[d] if d in axes else n for d, n in zip(dims, x.shape, strict=True)]


def _last(axes: Sequence[str]) -> tuple[int, ...]:
    return tuple(range(-len(axes), 0))


def _fill(x: Tensor, keep: Tensor | None, value: float) -> Tensor:
    return (
        x
        if keep is None
        else torch.where(keep, x, torch.tensor(value, dtype=x.dtype, device=x.device))
    )


def _extreme(op: str, x: Tensor, keep: Tensor | None, last: tuple[int, ...]) -> Tensor:
    """The greatest or least over the `last` dimensions, whose gradient goes to the first of equal
    ones."""
    if x.is_floating_point():
        empty: float = -math.inf if op == "amax" else math.inf
    else:
        info = torch.iinfo(x.dtype)
        empty = info.min if op == "amax" else info.max
    x = _fill(x, keep, empty)
    if 0 in x.shape[last[0] :]:
        return torch.full(x.shape[: last[0]], empty, dtype=x.dtype, device=x.device)
    function = torch.max if op == "amax" else torch.min
    return safe(lambda t: function(t, -1, keepdim=True).values, x.flatten(last[0])).squeeze(-1)


def _exponentials(
    x: Tensor, keep: Tensor | None, last: tuple[int, ...], sink: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """exp(x - top) where kept, a finite top without gradient, and the sum; reductions keep dims."""
    with torch.no_grad():
        top = _extreme("amax", x, keep, last)
        for _ in last:
            top = top.unsqueeze(-1)
        if sink is not None:
            top = torch.maximum(top, sink)
        top = torch.where(top.isfinite(), top, 0)
    each = _fill(safe(torch.exp, x - top), keep, 0)
    total = each.sum(last, keepdim=True)
    if sink is not None:
        total = total + safe(torch.exp, sink - top)
    return each, top, total
