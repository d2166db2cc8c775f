"""Arithmetic on Python's numbers as PyTorch does it: outside a domain, nan or infinity, no error.

The host computes what depends on sizes and run-time scalars alone before it is known whether a
`where` takes it, so nothing here may raise.
"""

from __future__ import annotations

import math

INFINITY = float("inf")


def number_sqrt(x: float) -> float:
    """Square root, nan of a negative number."""
    return math.sqrt(x) if x >= 0 else math.nan


def number_rsqrt(x: float) -> float:
    """1 / square root, infinity of 0 and nan of a negative number."""
    return number_div(1.0, number_sqrt(x))


def number_log(x: float) -> float:
    """Natural logarithm, minus infinity of 0 and nan of a negative number."""
    return math.log(x) if x > 0 else -INFINITY if x == 0 else math.nan


def number_log2(x: float) -> float:
    """Logarithm in base 2, as `number_log`."""
    return math.log2(x) if x > 0 else -INFINITY if x == 0 else math.nan


def number_log1p(x: float) -> float:
    """log(1 + x), as `number_log`."""
    return math.log1p(x) if x > -1 else -INFINITY if x == -1 else math.nan


def number_exp(x: float) -> float:
    """e ** x, infinity past what a float holds."""
    return math.exp(x) if x < 709.0 else INFINITY


def number_pow(x: float, n: float) -> float:
    """x ** n, nan of a negative number to a power that is not whole."""
    if x == 0 and n < 0:
        return INFINITY
    if x < 0 and n != math.floor(n):
        return math.nan
    try:
        return float(x**n)
    except OverflowError:
        return -INFINITY if x < 0 and n % 2 == 1 else INFINITY


def number_div(x: float, y: float) -> float:
    """x / y, infinity or nan where y is 0."""
    if y != 0:
        return x / y
    return x * INFINITY


def number_floordiv(x: int, y: int) -> int:
    """x // y, 0 where y is 0."""
    return x // y if y != 0 else 0


def number_mod(x: int, y: int) -> int:
    """x % y, 0 where y is 0."""
    return x % y if y != 0 else 0


def number_floor(x: float) -> int:
    """The greatest integer up to x, 0 of what is not finite."""
    return math.floor(x) if math.isfinite(x) else 0


def number_ceil(x: float) -> int:
    """The least integer from x on, 0 of what is not finite."""
    return math.ceil(x) if math.isfinite(x) else 0
