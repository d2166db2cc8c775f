"""One result against the reference, by the rule that tells a right kernel from a wrong one.

The kernel may be off by twice as much as plain PyTorch in its own dtype is (gradients: three
times), plus a few units in the last place; in float32 its relative error must be below 1e-5
besides, or below what plain PyTorch reaches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ULPS = 4.0
RELATIVE = 1e-5
DOUBLE = 1e-11


def largest(x: Tensor) -> float:
    x = x[x.isfinite()].abs()
    return float(x.max()) if x.numel() else 0.0


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt()) if x.numel() else 0.0


def compare(
    got: Tensor,
    plain: Sequence[Tensor],
    want: Tensor,
    dtype: torch.dtype,
    shift: Tensor | None,
    size: float,
    jumps: bool,
) -> tuple[float, str]:
    """(error over what is allowed, what is wrong). For gradients `shift` is what a rounding of
    every row's numbers changes, `size` that of the largest of all; `jumps` spares a few rows."""
    gradient = shift is not None
    expected = want.to(got.dtype).double()  # what is too large for the dtype is infinite
    got, want, others = got.double(), want.double(), [x.double() for x in plain]
    inside = expected.isfinite()
    if not gradient:
        # which values are infinite may hang on a rounding: as in plain PyTorch is right, too
        wrong = ~(_alike(got, expected) | _alike(got, others[0]))
        if bool(wrong.any()):
            place = _first(wrong)
            return math.inf, f"at {place}: {_at(got, place)}, expected {_at(want, place)}"
        inside = inside & got.isfinite()
    else:  # nor is a gradient a number where the dtype is too small for what leads to it
        inside = inside & (got.isfinite() | others[0].isfinite())
    error = torch.where(inside, (got - want).abs(), 0.0)
    other = torch.stack([torch.where(inside, (x - want).abs(), 0.0) for x in others])
    if not bool(error.isfinite().all()):
        place = _first(~error.isfinite())
        return math.inf, f"at {place}: {_at(got, place)}, expected {_at(want, place)}"
    ulp = torch.finfo(dtype).eps
    top = largest(torch.where(inside, want, 0.0))
    if shift is not None:
        top += largest(torch.where(inside, shift, 0.0))
    tiny = ulp * (ULPS * top + size) + torch.finfo(dtype).tiny
    finite = torch.tensor([bool(x.isfinite().all()) for x in other], dtype=torch.bool)
    if bool(finite.any()):  # of what plain PyTorch gives, what did not overflow
        other = other[finite]
    honest = float(other.max()) if other.numel() else 0.0
    if dtype is torch.float64:  # where plain PyTorch is the reference itself
        honest = DOUBLE * (top + size)
    if not math.isfinite(honest):  # plain PyTorch overflows where the kernel need not
        honest = 16 * ulp * top
    if honest > top / 2 > 0:  # plain PyTorch is wrong altogether: nothing to be learnt here
        return 0.0, ""
    allowed = (3 if gradient else 2) * honest + tiny
    if jumps and error.numel():
        error = _spared(error, allowed, dtype)
    worst = float(error.max()) if error.numel() else 0.0
    if worst > allowed:
        place = _first(error == worst)
        return worst / allowed, (
            f"at {place}: {_at(got, place)}, expected {_at(want, place)}"
            f" (plain PyTorch is off by {honest:.1e} at most)"
        )
    if dtype is torch.float32 and error.numel():
        limit = (
            max(RELATIVE * _rms(torch.where(inside, want, 0.0)), 3 * max(_rms(x) for x in other))
            + tiny
        )
        if _rms(error) > limit:
            return worst / allowed, f"relative error {_rms(error):.1e}, limit {limit:.1e}"
    return worst / allowed, ""


def _spared(error: Tensor, allowed: float, dtype: torch.dtype) -> Tensor:
    """The error without the rows that a jump may have hit: one, and in half precision a few."""
    rows = error.flatten(0, -2) if error.dim() > 2 else error.reshape(-1, 1)
    over = rows.amax(-1) > allowed
    share = 0.05 if torch.finfo(dtype).eps > 1e-5 else 0.0
    if int(over.sum()) > 1 + share * len(rows):
        return error
    return torch.where(over[:, None], 0.0, rows)


def _alike(x: Tensor, y: Tensor) -> Tensor:
    """Where both are finite, both NaN, or the same infinity."""
    return (x == y) | (x.isfinite() & y.isfinite()) | (x.isnan() & y.isnan())


def _first(where: Tensor) -> tuple[int, ...]:
    return tuple(int(n) for n in where.nonzero()[0])


def _at(x: Tensor, place: tuple[int, ...]) -> str:
    return f"{float(x[place]):.6g}"
