"""Entmax in kernels: its weights, and the search for the threshold of every row of a tile.

`runtime.cpu_entmax` says how the search goes.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

SWEEPS = tl.constexpr(40)  # at most
OFF = tl.constexpr(2.0**-18)  # how far from 1 a sum may be: a step later its error is the square


@triton.jit
def tempered(z, a):
    """(1 + a z) ** (1 / a) where the base is above 0, else 0; e ** z at a = 0."""
    u = a * z
    outside = u <= -1.0  # which is not true of what is not a number
    base = tl.where(outside, 1.0, 1.0 + u)
    grown = base - 1.0  # u as it was rounded, as in `log1p`
    some = grown != 0.0
    slope = tl.where(some, tl.log(base) / tl.where(some, grown, 1.0), 1.0)  # log(1 + u) / u
    return tl.where(outside, 0.0, tl.exp(z * slope))


@triton.jit
def bend(z, a):
    """d log(tempered(z, a)) / da: (u / (1 + u) - log(1 + u)) / u ** 2 times z ** 2 with u = a z, by
    a series near 0; 0 where the base is not above 0."""
    u = a * z
    inside = u > -1.0
    far = tl.abs(u) > 0.05
    v = tl.where(inside & far, u, 1.0)
    whole = (v / (1.0 + v) - tl.log(1.0 + v)) / (v * v)
    near = tl.where(far, 0.0, u)
    series = near * 0.0
    for n in tl.static_range(12):
        series = (12.0 - n) / (13.0 - n) - series * near
    return tl.where(inside, z * z * tl.where(far, whole, -series), 0.0)


@triton.jit
def bracket(top):
    """Where the threshold of a row lies whose largest score is `top` if a is above 1; for others
    its lower end is where the search starts. A row without scores has any."""
    low = tl.where((top - top) == 0.0, top, 0.0)
    return low, low + 1.0


@triton.jit
def narrowed(low, high, near, total, slope, a, left):
    """The bracket after a sweep at `near`, what the next one tries, and how many are `left` of
    those that any row needs."""
    enough = total >= 1.0
    low, high = tl.where(enough, near, low), tl.where(enough, high, near)
    height = tl.log(tl.where(enough, total, 1.0))
    y = a * height
    lower = tl.where(y > 0.01, 1.0 - tl.exp(-y), y * (1.0 - y * (0.5 - y * 0.16666667)))
    lower = tl.where(y > 0.0, lower / tl.where(y > 0.0, y, 1.0), 1.0)  # (1 - e ** -y) / y
    step = tl.where(enough, total / tl.where(enough, slope, 1.0) * height * lower, 0.0)
    convex = a <= 1.0
    after = tl.where(convex, near + step, (low + high) * 0.5)
    off = (total - 1.0 > OFF) | ((total < 1.0) & (a > 1.0))
    moving = tl.max(tl.where(off & (after != near), 1, 0), 0)
    return low, high, after, moving * (left - 1)
