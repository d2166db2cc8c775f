"""Formulas of the specs whose weights depend on a sum or a product along the row."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, attend, attend_causal, dots, scaled
from torch import Tensor


def stick_breaking(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    taken = torch.sigmoid(scaled(q, k))
    out = torch.zeros_like(v)
    for i in range(q.shape[2]):
        left = torch.ones_like(taken[:, :, i, :1])
        for j in range(i, -1, -1):
            out[:, :, i] += left * taken[:, :, i, j : j + 1] * v[:, :, j]
            left = left * (1 - taken[:, :, i, j : j + 1])
    return out


def sticks_from_the_start(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The first key breaks its share off first."""
    taken = torch.sigmoid(scaled(q, k)).tril()
    left = (1 - taken).cumprod(-1) / (1 - taken)
    return (taken * left) @ v


def threshold_relative(q: Tensor, k: Tensor, v: Tensor, pace: Tensor) -> Tensor:
    logit = scaled(q, k).relu()
    kept = logit > 0
    cost = torch.nn.functional.logsigmoid(pace)
    score = logit.clone()
    for i in range(logit.shape[2]):
        for j in range(i + 1):
            count = kept[:, :, i, j : i + 1].sum(-1)
            score[:, :, i, j] = logit[:, :, i, j] + cost[:, :, i] * count
    return attend(score, v, lambda b, h, i: [j for j in range(i + 1) if kept[b, h, i, j]])


def plain_distances(q: Tensor, k: Tensor, v: Tensor, pace: Tensor) -> Tensor:
    """The distance counts every key between, those that take no part too."""
    logit = scaled(q, k).relu()
    m = logit.shape[2]
    gap = torch.arange(m)[:, None] - torch.arange(m) + 1
    score = logit + torch.nn.functional.logsigmoid(pace)[..., None] * gap
    return attend(score, v, lambda b, h, i: [j for j in range(i + 1) if logit[b, h, i, j] > 0])


def context_positions(q: Tensor, k: Tensor, embedding: Tensor) -> Tensor:
    """Logits by the learned vectors around sums of gates from a key to the query."""
    gates = torch.sigmoid(scaled(q, k)).tril()
    positions = gates.flip(-1).cumsum(-1).flip(-1).clamp(max=embedding.shape[0] - 1)
    low, high = positions.floor().long(), positions.ceil().long()
    at = torch.einsum("bhid,pd->bhip", q, embedding)
    part = positions - low
    return part * at.gather(-1, high) + (1 - part) * at.gather(-1, low)


def contextual_position(q: Tensor, k: Tensor, v: Tensor, embedding: Tensor) -> Tensor:
    return attend_causal(scaled(q, k) + context_positions(q, k, embedding), v)


def whole_positions(q: Tensor, k: Tensor, v: Tensor, embedding: Tensor) -> Tensor:
    """Positions rounded down instead of read between two vectors."""
    gates = torch.sigmoid(scaled(q, k)).tril()
    positions = gates.flip(-1).cumsum(-1).flip(-1).long()
    bias = torch.einsum("bhid,bhijd->bhij", q, embedding[positions])
    return attend_causal(dots(q, k) / math.sqrt(q.shape[-1]) + bias, v)


CASES = {
    "stick_breaking": Case(stick_breaking),
    "threshold_relative": Case(
        threshold_relative, lambda r: {"pace": r.normal(r.b, r.h, r.m)}, m=13, n=13
    ),
    "contextual_position": Case(
        contextual_position, lambda r: {"embedding": r.normal(64, r.d)}, m=20, n=20
    ),
}
