"""Formulas of the specs that transform queries and keys before they meet."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, Draw, attend_all, attend_causal, dots, each_pair, scaled
from torch import Tensor
from torch.nn.functional import elu, hardtanh, normalize, rms_norm, silu


def polar(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_phase: Tensor,
    k_phase: Tensor,
    stretch: Tensor,
    shift: Tensor,
    turn: Tensor,
) -> Tensor:
    # Pair by pair and channel by channel: lengths, and the cosine of the changed phase difference.
    n = q.shape[2]
    apart = each_pair(n, n, lambda i, j: i - j)[..., None]
    phase = q_phase[:, :, :, None] - k_phase[:, :, None]
    adapted = stretch[:, None, None, None] * phase + shift[:, None, None, None]
    angle = adapted + turn[:, None, None] * apart
    lengths = q[:, :, :, None] * k[:, :, None]
    return attend_causal((lengths * angle.cos()).sum(-1) / math.sqrt(2 * q.shape[3]), v)


def partial_channels(q: Tensor, k: Tensor, v: Tensor, rest: Tensor) -> Tensor:
    return torch.relu(torch.cat([attend_all(scaled(q, k), v), rest], -1))


def learned_normaliser(q: Tensor, k: Tensor, v: Tensor, log_eta: Tensor) -> Tensor:
    # As a recurrence: a state of outer products, read by the query, divided by the row's number.
    fq, fk = elu(q) + 1, elu(k) + 1
    states = torch.einsum("bhjd,bhje->bhjde", fk, v).cumsum(2)
    return torch.einsum("bhid,bhide->bhie", fq, states) / log_eta.exp()[..., None]


def _codes(x: Tensor, anchors: Tensor, centre: Tensor, planes: Tensor, sigma: float) -> Tensor:
    unit = normalize(x, dim=-1)
    apart = torch.cdist(unit, anchors[None].expand(x.shape[0], -1, -1, -1))
    side = (torch.exp(-apart.square() / (2 * sigma**2)) - centre[:, None]) @ planes.mT
    return hardtanh(side) + (side.sign() - hardtanh(side)).detach()


def hashed_linear(
    v: Tensor, x: Tensor, anchors: Tensor, centre: Tensor, planes: Tensor, sigma: float
) -> Tensor:
    bits = _codes(x, anchors, centre, planes, sigma)
    weights = bits.shape[-1] + 1 + bits @ bits.mT
    return weights / weights.sum(-1, keepdim=True) @ v


def hashed_linear_self(
    v: Tensor, x: Tensor, anchors: Tensor, centre: Tensor, planes: Tensor, sigma: float
) -> Tensor:
    bits = _codes(x, anchors, centre, planes, sigma)
    offset, state = bits.shape[-1] + 1, bits.mT @ v
    total = offset * v.shape[2] + bits @ bits.sum(2)[..., None]
    return (offset * v + bits @ state) / total


def kernelized_relative(q: Tensor, k: Tensor, v: Tensor, features: Tensor, table: Tensor) -> Tensor:
    def positive(x: Tensor) -> Tensor:
        # exp(w.x - |x|^2 / 2), the length of x being one.
        return torch.exp(normalize(x, dim=-1) @ features.mT - 0.5) / math.sqrt(features.shape[1])

    offset = each_pair(q.shape[2], k.shape[2], lambda i, j: 127 + j - i).long()
    weights = table[:, offset].exp() * dots(positive(q), positive(k))
    return weights / weights.sum(-1, keepdim=True) @ v


def geometric_transform(q: Tensor, k: Tensor, v: Tensor, pose: Tensor, inverse: Tensor) -> Tensor:
    # Each pair's own change of frame, as the definition says.
    between = pose[:, :, None] @ inverse[:, None]
    score = torch.einsum("bhid,bijdf,bhjf->bhij", q, between, k) / math.sqrt(q.shape[3])
    return torch.einsum("bhij,bijdf,bhjf->bhid", torch.softmax(score, -1), between, v)


def cross_lingual(
    q: Tensor, k: Tensor, v: Tensor, qx: Tensor, language: Tensor, strict: Tensor
) -> Tensor:
    same = (language[:, :, None] == language[:, None])[:, None]
    bridge = each_pair(q.shape[2], k.shape[2], lambda i, j: i == 0 or j == 0).bool()
    bridge = bridge | ~strict[:, None, None, None]
    score = scaled(q, k) * (same | bridge) + scaled(qx, k) * (~same | bridge)
    return attend_all(score, v)


def bilinear(q: Tensor, k: Tensor, v: Tensor, form: Tensor, bias: Tensor) -> Tensor:
    score = torch.einsum("bhid,hdc,bhjc->bhij", q, form, k)
    return attend_all(score + torch.einsum("hc,bhjc->bhj", bias, k)[:, :, None], v)


def activated_bilinear(q: Tensor, k: Tensor, v: Tensor, form: Tensor, bias: Tensor) -> Tensor:
    score = torch.einsum("bhid,hdc,bhjc->bhij", q, form, k)
    return attend_all(torch.tanh(score + bias[:, None, None]), v)


def location_based(q: Tensor, v: Tensor, rows: Tensor) -> Tensor:
    return torch.softmax((q @ rows.mT)[..., : v.shape[2]], -1) @ v


def _attention_free(q: Tensor, k: Tensor, v: Tensor, place: Tensor) -> Tensor:
    """A softmax for every channel of k plus the numbers `place` [i, j]."""
    logits = place[:, :, None] + k[:, :, None]
    return torch.sigmoid(q) * (torch.softmax(logits, 3) * v[:, :, None]).sum(3)


def attention_free_full(q: Tensor, k: Tensor, v: Tensor, reader: Tensor, place: Tensor) -> Tensor:
    return _attention_free(q, k, v, reader[: q.shape[2]] @ place[: k.shape[2]].mT)


def attention_free_local(
    q: Tensor, k: Tensor, v: Tensor, reader: Tensor, place: Tensor, reach: int
) -> Tensor:
    m, n = q.shape[2], k.shape[2]
    near = each_pair(m, n, lambda i, j: abs(i - j) < reach)
    return _attention_free(q, k, v, reader[:m] @ place[:n].mT * near)


def attention_free_window(
    q: Tensor, k: Tensor, v: Tensor, reader: Tensor, place: Tensor, reach: int
) -> Tensor:
    """The misreading: keys out of reach masked, where their bias is zero."""
    m, n = q.shape[2], k.shape[2]
    near = each_pair(m, n, lambda i, j: abs(i - j) < reach).bool()
    inside = (reader[:m] @ place[:n].mT).masked_fill(~near, -math.inf)
    return _attention_free(q, k, v, inside)


def attention_free_conv(q: Tensor, v: Tensor, k: Tensor, table: Tensor) -> Tensor:
    # [conv(exp(k) v, exp(w) - 1) + sum exp(k) v] / [the same of exp(k)]
    mass = k.exp()[..., None] * torch.cat([v, torch.ones_like(v[..., :1])], -1)
    reach = table.shape[1] // 2
    rows = []
    for i in range(q.shape[2]):
        seen = range(max(0, i - reach), min(k.shape[2], i + reach + 1))
        near = [(table[:, j - i + reach].exp() - 1)[:, None] * mass[:, :, j] for j in seen]
        rows.append(mass.sum(2) + torch.stack(near).sum(0))
    both = torch.stack(rows, 2)
    return torch.sigmoid(q) * both[..., :-1] / both[..., -1:]


def lightning(q: Tensor, k: Tensor, v: Tensor, g: Tensor, rate: Tensor) -> Tensor:
    q, k, v = silu(q), silu(k), silu(v)
    state = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=q.dtype)
    out = []
    for t in range(q.shape[2]):
        state = torch.exp(-rate)[:, None, None] * state + k[:, :, t, :, None] * v[:, :, t, None]
        out.append((q[:, :, t, None] @ state)[:, :, 0])
    return rms_norm(torch.stack(out, 2), (v.shape[3],), eps=1e-6) * torch.sigmoid(g)


def _hashed(r: Draw) -> dict[str, Tensor | float]:
    return {
        "x": r.normal(r.b, r.h, r.n, r.d),
        "anchors": r.normal(r.h, 7, r.d) / 2,
        "centre": r.uniform(0.1, 0.4, r.h, 7),
        "planes": r.normal(r.h, 5, 7),
        "sigma": 0.8,
    }


def _poses(r: Draw) -> dict[str, Tensor]:
    pose = torch.eye(r.d, dtype=torch.float64) + r.normal(r.b, r.n, r.d, r.d) / 5
    return {"pose": pose, "inverse": torch.linalg.inv(pose)}


def _bilinear(r: Draw, *bias: int) -> dict[str, Tensor]:
    return {
        "k": r.normal(r.b, 2, r.n, 7),
        "form": r.normal(r.h, r.d, 7) / 3,
        "bias": r.normal(*bias),
    }


def _places(r: Draw) -> dict[str, Tensor]:
    return {"reader": r.normal(64, 8) / 2, "place": r.normal(64, 8) / 2}


CASES = {
    "polar": Case(
        polar,
        lambda r: {
            "q_phase": r.normal(r.b, r.h, r.m, r.d),
            "k_phase": r.normal(r.b, 2, r.n, r.d),
            "stretch": r.normal(r.h),
            "shift": r.normal(r.h),
            "turn": r.normal(r.h, r.d),
        },
        keys=("k_phase",),
    ),
    "partial_channels": Case(
        partial_channels,
        lambda r: {"rest": r.normal(r.b, r.h, r.m, 8)},
        d=16,
        e=13,
        h=1,
        kv_heads=1,
    ),
    "learned_normaliser": Case(learned_normaliser, lambda r: {"log_eta": r.normal(r.b, r.h, r.m)}),
    "hashed_linear": Case(hashed_linear, _hashed, operands="v", keys=("x",)),
    "hashed_linear_self": Case(hashed_linear_self, _hashed, operands="v", keys=("x",)),
    "kernelized_relative": Case(
        kernelized_relative,
        lambda r: {"features": r.normal(r.h, 9, r.d), "table": r.normal(r.h, 255)},
        n=14,
    ),
    "geometric_transform": Case(geometric_transform, _poses, e=6),
    "cross_lingual": Case(
        cross_lingual,
        lambda r: {
            "qx": r.normal(r.b, r.h, r.m, r.d),
            "language": r.ints(0, 3, r.b, r.n),
            "strict": torch.tensor([True, False]),
        },
    ),
    "bilinear": Case(bilinear, lambda r: _bilinear(r, r.h, 7), operands="qv", n=14),
    "activated_bilinear": Case(
        activated_bilinear, lambda r: _bilinear(r, r.h), operands="qv", n=14
    ),
    "location_based": Case(
        location_based, lambda r: {"rows": r.normal(r.h, 64, r.d)}, operands="qv", n=14
    ),
    "attention_free_full": Case(attention_free_full, _places, d=5, e=5, n=14),
    "attention_free_local": Case(
        attention_free_local, lambda r: {**_places(r), "reach": 3}, d=5, e=5, n=14
    ),
    "attention_free_conv": Case(
        attention_free_conv,
        lambda r: {"k": r.normal(r.b, r.h, r.n), "table": r.normal(r.h, 9)},
        operands="qv",
        d=5,
        n=14,
    ),
    "lightning": Case(
        lightning,
        lambda r: {"g": r.normal(r.b, r.h, r.m, r.e), "rate": r.uniform(0, 1, r.h)},
    ),
}
