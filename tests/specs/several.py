"""Formulas of the specs with several weights, other normalisers, or a recurrence."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, attend, attend_causal, dots, scaled, weights_over
from torch import Tensor
from torch.nn.functional import normalize, rms_norm, silu


def relaxed(q: Tensor, k: Tensor, v: Tensor, gamma: float, keep: Tensor) -> Tensor:
    out = []
    for b in range(q.shape[0]):
        real = keep[b].nonzero()[:, 0]
        keys, values = k[b, :, real], v[b, :, real]
        weights = torch.softmax(q[b] @ keys.mT / math.sqrt(q.shape[-1]), -1)
        out.append(((1 - gamma) * weights + gamma / len(real)) @ values)
    return torch.stack(out)


def differential(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q2: Tensor,
    k2: Tensor,
    l1: Tensor,
    l2: Tensor,
    l3: Tensor,
    l4: Tensor,
) -> Tensor:
    init = 0.8
    lam = torch.exp((l1 * l2).sum(-1)) - torch.exp((l3 * l4).sum(-1)) + init
    first, second = attend_causal(scaled(q, k), v), attend_causal(scaled(q2, k2), v)
    out = first - lam[:, None, None] * second
    return rms_norm(out, (v.shape[-1],), eps=1e-6) * (1 - init)


def entmax_heads(q: Tensor, k: Tensor, v: Tensor, a: Tensor) -> Tensor:
    # p = relu((alpha - 1) s - tau)^(1 / (alpha - 1)); tau by bisection, then one Newton step that
    # carries the derivative (the implicit function theorem).
    order = (torch.sigmoid(a))[:, None, None]
    causal = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    z = (order * scaled(q, k)).masked_fill(~causal, -math.inf)
    with torch.no_grad():
        high = z.amax(-1, keepdim=True)
        low = high - 1
        for _ in range(100):
            middle = (low + high) / 2
            more = ((z - middle).clamp(min=0) ** (1 / order)).sum(-1, keepdim=True) > 1
            low, high = torch.where(more, middle, low), torch.where(more, high, middle)
        tau = (low + high) / 2
        kept = z > tau
    gap = torch.where(kept, z - tau, 1.0)
    with torch.no_grad():
        slope = (gap ** (1 / order - 1) / order * kept).sum(-1, keepdim=True)
    excess = (gap ** (1 / order) * kept).sum(-1, keepdim=True) - 1
    moved = torch.where(kept, z - tau - excess / slope, 1.0)
    return (moved ** (1 / order) * kept) @ v


def slot(q: Tensor, k: Tensor, v: Tensor, eps: float) -> Tensor:
    won = torch.softmax(scaled(q, k), dim=2) + eps
    return torch.einsum("bhij,bhje->bhie", won / won.sum(-1, keepdim=True), v)


def landmark(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    length, n = 8, k.shape[2]
    score = scaled(q, k)

    def top(b: int, h: int, i: int) -> list[int]:
        own = i // length * length
        regular = [j for j in range(own, i + 1) if j % length != length - 1]
        return [*range(length - 1, own, length), *regular]

    outer = weights_over(score, top)
    columns = []
    for j in range(n):
        block = j // length * length
        last = min(block + length - 1, n - 1)
        if j % length == length - 1:
            columns.append(torch.zeros_like(score[..., j]))
            continue
        inner = torch.softmax(score[..., block : block + length - 1], -1)[..., j - block]
        own = torch.arange(q.shape[2]) // length == j // length
        later = torch.arange(q.shape[2]) // length > j // length
        columns.append(
            torch.where(own, outer[..., j], 0.0) + torch.where(later, outer[..., last] * inner, 0.0)
        )
    return torch.stack(columns, -1) @ v


def retention(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor) -> Tensor:
    state = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=q.dtype)
    out = []
    for t in range(q.shape[2]):
        state = gamma[:, None, None] * state + k[:, :, t, :, None] * v[:, :, t, None]
        out.append((q[:, :, t, None] @ state)[:, :, 0] / math.sqrt(q.shape[3]))
    return torch.stack(out, 2)


def cosine_reweighting(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # Two features per channel: cos(a - b) = cos a cos b + sin a sin b.
    longest = max(q.shape[2], k.shape[2])

    def features(x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * math.pi / (2 * longest)
        x = x.clamp(min=0)
        return torch.cat([x * angle.cos(), x * angle.sin()], -1)

    fq, fk = features(q), features(k)
    total = dots(fq, fk.sum(2, keepdim=True)).clamp(min=1e-6)
    return fq @ (fk.mT @ v) / total


def gated_delta(q: Tensor, k: Tensor, v: Tensor, g: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    # S <- S a (I - b k k^T) + b v k^T with S [e, d], read by the query.
    q, k = normalize(q, dim=-1), normalize(k, dim=-1)
    width = q.shape[3]
    state = torch.zeros(*q.shape[:2], v.shape[3], width, dtype=q.dtype)
    out = []
    for t in range(q.shape[2]):
        key, value = k[:, :, t, :, None], v[:, :, t, :, None]
        a, b = alpha[:, :, t, None, None], beta[:, :, t, None, None]
        erase = torch.eye(width, dtype=q.dtype) - b * key @ key.mT
        state = state @ (a * erase) + b * value @ key.mT
        out.append((state @ q[:, :, t, :, None])[..., 0])
    return rms_norm(torch.stack(out, 2), (v.shape[3],), eps=1e-6) * silu(g)


def gla(q: Tensor, k: Tensor, v: Tensor, r: Tensor, log_a: Tensor) -> Tensor:
    # The parallel form: sum over channels of q k exp(b_i - b_j), b the running sum of log decays.
    b = log_a.cumsum(2)
    pairs = q[:, :, :, None] * k[:, :, None] * torch.exp(b[:, :, :, None] - b[:, :, None])
    out = pairs.sum(-1).tril() @ v / math.sqrt(q.shape[3])
    return rms_norm(out, (v.shape[3],), eps=1e-6) * silu(r)


def music(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
    # Skewing: a product with every row of the table, then each query's row slid into place.
    longest, n = 16, k.shape[2]
    products = torch.einsum("bhid,hld->bhil", q, rows)
    clipped = [[max(j - i, 1 - longest) + longest - 1 for j in range(i + 1)] for i in range(n)]
    bias = [
        torch.nn.functional.pad(products[:, :, i, at], (0, n - 1 - i))
        for i, at in enumerate(clipped)
    ]
    return attend_causal((dots(q, k) + torch.stack(bias, 2)) / math.sqrt(q.shape[3]), v)


def dynamic_mask(
    q: Tensor, k: Tensor, v: Tensor, window: int, rate: Tensor, feature: Tensor
) -> Tensor:
    importance = torch.exp(rate[:, None] * torch.nn.functional.softplus(feature))

    def keys(b: int, h: int, i: int) -> list[int]:
        past = importance[b, h, : i + 1].detach()
        return past.topk(min(window, i + 1)).indices.tolist()

    return attend(scaled(q, k) + importance[:, :, None], v, keys)


CASES = {
    "relaxed": Case(relaxed, lambda r: {"gamma": 0.3, "keep": r.flags(0.7, r.b, r.n)}, n=14),
    "differential": Case(
        differential,
        lambda r: {
            "q2": r.normal(r.b, r.h, r.m, r.d),
            "k2": r.normal(r.b, 2, r.n, r.d),
            **{name: r.normal(r.h, r.d) / 3 for name in ("l1", "l2", "l3", "l4")},
        },
        keys=("k2",),
    ),
    "entmax_heads": Case(entmax_heads, lambda r: {"a": r.normal(r.h)}),
    "slot": Case(slot, lambda r: {"eps": 1e-3}, m=3, n=12),
    "landmark": Case(landmark, m=21, n=21),
    "retention": Case(retention, lambda r: {"gamma": r.uniform(0.5, 1, r.h)}),
    "cosine_reweighting": Case(cosine_reweighting, m=9, n=12),
    "gated_delta": Case(
        gated_delta,
        lambda r: {
            "g": r.normal(r.b, r.h, r.m, r.e),
            "alpha": r.uniform(0.3, 1, r.b, r.h, r.n),
            "beta": r.uniform(0, 1, r.b, r.h, r.n),
        },
    ),
    "gla": Case(
        gla,
        lambda r: {
            "r": r.normal(r.b, r.h, r.m, r.e),
            "log_a": -r.uniform(0, 1, r.b, r.h, r.n, r.d),
        },
    ),
    "music": Case(music, lambda r: {"rows": r.normal(r.h, 16, r.d)}, m=21, n=21),
    "dynamic_mask": Case(
        dynamic_mask,
        lambda r: {"window": 4, "rate": r.normal(r.h), "feature": r.normal(r.b, r.h, r.n)},
    ),
}
