"""Formulas of the specs whose logits are sums over channels that are no dot product."""

from __future__ import annotations

import torch
from tests.specs.case import Case, attend_all, weights_over
from torch import Tensor
from torch.nn.functional import leaky_relu


def summed(q: Tensor, k: Tensor) -> Tensor:
    """Every query's channels plus every key's [b, h, i, j, d]."""
    return q[:, :, :, None] + k[:, :, None]


def energy(q: Tensor, k: Tensor, w: Tensor) -> Tensor:
    return torch.einsum("hd,bhijd->bhij", w, torch.tanh(summed(q, k)))


def additive(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return attend_all(energy(q, k, w), v)


def additive_pointer(q: Tensor, k: Tensor, w: Tensor, open: Tensor) -> Tensor:
    return weights_over(energy(q, k, w), lambda b, h, i: open[b, i].nonzero()[:, 0].tolist())


def graph_dynamic(q: Tensor, k: Tensor, v: Tensor, a: Tensor, adjacent: Tensor) -> Tensor:
    score = torch.einsum("hd,bhijd->bhij", a, leaky_relu(summed(q, k), 0.2))
    return _among_neighbours(score, v, adjacent)


def rectified_sum(q: Tensor, k: Tensor, v: Tensor, a: Tensor, adjacent: Tensor) -> Tensor:
    """The static score, whose leaky ReLU stands outside of the sum."""
    score = leaky_relu(torch.einsum("hd,bhijd->bhij", a, summed(q, k)), 0.2)
    return _among_neighbours(score, v, adjacent)


def _among_neighbours(score: Tensor, v: Tensor, adjacent: Tensor) -> Tensor:
    return weights_over(score, lambda b, h, i: adjacent[b, i].nonzero()[:, 0].tolist()) @ v


CASES = {
    "additive": Case(additive, lambda r: {"w": r.normal(r.h, r.d)}, m=7, n=12),
    "additive_pointer": Case(
        additive_pointer,
        lambda r: {"w": r.normal(r.h, r.d), "open": r.flags(0.4, r.b, r.m, r.n)},
        operands="qk",
        returned=("p",),
    ),
    "graph_dynamic": Case(
        graph_dynamic,
        lambda r: {"a": r.normal(r.h, r.d), "adjacent": r.flags(0.2, r.b, r.m, r.n)},
    ),
}
