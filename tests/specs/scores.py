"""Formulas of the specs whose score is the point: biases, scales, rotations, decays."""

from __future__ import annotations

import math

import torch
from tests.specs.case import (
    Case,
    Draw,
    attend,
    attend_all,
    attend_causal,
    dots,
    each_pair,
    scaled,
)
from torch import Tensor
from torch.nn.functional import normalize, rms_norm


def temperature(q: Tensor, k: Tensor, v: Tensor, tau: Tensor) -> Tensor:
    return attend_all(scaled(q / tau[:, None, None], k), v)


def log_length(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend_all(scaled(q, k) * math.log(k.shape[2]), v)


def softcap(q: Tensor, k: Tensor, v: Tensor, cap: float) -> Tensor:
    return attend_causal(cap * torch.tanh(scaled(q, k) / cap), v)


def qk_norm(q: Tensor, k: Tensor, v: Tensor, scale: Tensor) -> Tensor:
    cosine = dots(normalize(q, dim=-1), normalize(k, dim=-1))
    return attend_all(scale[:, None, None] * cosine, v)


def rms_qk_norm(q: Tensor, k: Tensor, v: Tensor, wq: Tensor, wk: Tensor) -> Tensor:
    width = (q.shape[-1],)
    return attend_causal(scaled(rms_norm(q, width, wq, 1e-6), rms_norm(k, width, wk, 1e-6)), v)


def scale_blocks(q: Tensor, k: Tensor, v: Tensor, level: Tensor, log_scale: Tensor) -> Tensor:
    q = normalize(q, dim=-1) * log_scale.clamp(max=math.log(100)).exp()[:, None, None]
    k = normalize(k, dim=-1)
    return torch.stack([_by_level(q[b], k[b], v[b], level[b]) for b in range(q.shape[0])])


def _by_level(q: Tensor, k: Tensor, v: Tensor, level: Tensor) -> Tensor:
    """Softmax of the products inside each run of equal levels."""
    ends = [*(level.diff().nonzero()[:, 0] + 1).tolist(), len(level)]
    spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    return torch.cat([torch.softmax(q[:, s] @ k[:, s].mT, -1) @ v[:, s] for s in spans], dim=1)


def alibi(q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> Tensor:
    distance = each_pair(q.shape[2], k.shape[2], lambda i, j: i - j)
    return attend_causal(scaled(q, k) - slope[:, None, None] * distance, v)


def alibi_symmetric(q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> Tensor:
    distance = each_pair(q.shape[2], k.shape[2], lambda i, j: abs(i - j))
    return attend_all(scaled(q, k) - slope[:, None, None] * distance, v)


def kerple(q: Tensor, k: Tensor, v: Tensor, r1: Tensor, r2: Tensor) -> Tensor:
    distance = each_pair(q.shape[2], k.shape[2], lambda i, j: abs(i - j))
    return attend_causal(
        scaled(q, k) - r1[:, None, None] * torch.log(1 + r2[:, None, None] * distance), v
    )


def bucket(relative: int, bidirectional: bool) -> int:
    """Bucket of key position minus query position: 32 of them, logarithmic from half on to 128."""
    buckets, first = 32, 0
    if bidirectional:
        buckets //= 2
        first = buckets if relative > 0 else 0
        distance = abs(relative)
    else:
        distance = max(-relative, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    grown = math.log(distance / exact) / math.log(128 / exact) * (buckets - exact)
    return first + min(exact + int(grown + 1e-9), buckets - 1)


def t5(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    index = each_pair(q.shape[2], k.shape[2], lambda i, j: bucket(j - i, True)).long()
    return attend_all(dots(q, k) + table[:, index], v)


def t5_causal(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    index = each_pair(q.shape[2], k.shape[2], lambda i, j: bucket(j - i, False)).long()
    return attend_causal(dots(q, k) + table[:, index], v)


def relative_clipped(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    index = each_pair(q.shape[2], k.shape[2], lambda i, j: 16 + max(-16, min(16, j - i))).long()
    return attend_all(scaled(q, k) + table[:, index], v)


def toeplitz(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    # Row i of the bias is the stretch of the table that starts at distance -i.
    n, zero = k.shape[2], 255
    rows = [table[:, zero - i : zero - i + n] for i in range(q.shape[2])]
    return attend_all(scaled(q, k) + torch.stack(rows, dim=1), v)


def position_table(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    n = k.shape[2]
    opened = torch.sigmoid(w[:n, :n])
    opened = opened + torch.diag(1 - opened.diagonal())
    return attend_all(scaled(q, k) + (1 - opened) * -1e4, v)


def pair_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, g: Tensor) -> Tensor:
    return torch.sigmoid(g) * attend_all(scaled(q, k) + bias, v)


def rotate(x: Tensor, positions: Tensor, base: float = 10000) -> Tensor:
    """Turn channel pairs (c, c + half) by position * base^(-2c / width), as complex numbers."""
    width = x.shape[-1]
    turns = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = positions[:, None] * turns
    pairs = torch.complex(x[..., : width // 2], x[..., width // 2 :])
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], dim=-1)


def rope(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    positions = torch.arange(k.shape[2], dtype=torch.float64)
    return attend_causal(scaled(rotate(q, positions), rotate(k, positions)), v)


def rotate_grid(x: Tensor, *sizes: int) -> Tensor:
    """Each group of channels turns with one coordinate."""
    axes = [torch.arange(size, dtype=torch.float64) for size in sizes]
    places = torch.cartesian_prod(*axes).unbind(1)
    groups = x.chunk(len(sizes), dim=-1)
    return torch.cat([rotate(*pair) for pair in zip(groups, places, strict=True)], dim=-1)


def rope_2d(q: Tensor, k: Tensor, v: Tensor, gy: int, gx: int) -> Tensor:
    return attend_all(scaled(rotate_grid(q, gy, gx), rotate_grid(k, gy, gx)), v)


def rope_3d(q: Tensor, k: Tensor, v: Tensor, gf: int, gy: int, gx: int) -> Tensor:
    return attend_all(scaled(rotate_grid(q, gf, gy, gx), rotate_grid(k, gf, gy, gx)), v)


def gaussian_window(q: Tensor, k: Tensor, v: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    offset = torch.arange(k.shape[2]) - centre[..., None]
    return attend_all(scaled(q, k) - offset.square() / (2 * width[..., None].square()), v)


def adaptive_span(q: Tensor, k: Tensor, v: Tensor, span: Tensor, ramp: float) -> Tensor:
    distance = each_pair(q.shape[2], k.shape[2], lambda i, j: i - j)
    soft = (1 + (span[:, None, None] - distance) / ramp).clamp(0, 1) * (distance >= 0)
    weights = soft * scaled(q, k).exp()
    return weights / weights.sum(-1, keepdim=True) @ v


def ultra_long_decay(q: Tensor, k: Tensor, v: Tensor, alpha: float, window: int) -> Tensor:
    distance = each_pair(q.shape[2], k.shape[2], lambda i, j: abs(i - j))
    near = (distance <= window / 2).double()
    factor = near + alpha * (1 - near)
    score = scaled(q, k)
    return attend_all(score.clamp(max=0) + factor * score.clamp(min=0), v)


def token_emphasis(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, gamma: Tensor) -> Tensor:
    factor = 1 + gamma[:, None, None] * chosen[:, None, None, :]
    weights = torch.softmax(scaled(q, k), -1) * factor
    return weights / weights.sum(-1, keepdim=True) @ v


def key_gated_score(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    faded = torch.log(g.clamp(1e-6, 1))[:, None, None, :]
    return attend_causal(scaled(q, k) + faded, v) * g[:, None, :, None]


def soft_key_mask(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    # A key with m = 0 is left out, so nothing flows back into its m either.
    taken = torch.where(m > 0, m, 0.0)
    weights = taken[:, None, None, :] * scaled(q, k).exp()
    return weights / weights.sum(-1, keepdim=True) @ v


def gaussian_kernel(q: Tensor, k: Tensor, v: Tensor, kappa: float) -> Tensor:
    apart = (q[:, :, :, None] - k[:, :, None]).square().sum(-1)
    return attend_all(-kappa * apart, v)


def forgetting(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    return attend_causal(scaled(q, k) + _forgotten(log_f), v)


def _forgotten(log_f: Tensor) -> Tensor:
    """Sum of the log gates after key j up to query i, added one by one."""
    n = log_f.shape[-1]
    rows = [
        torch.stack([log_f[..., j + 1 : i + 1].sum(-1) for j in range(n)], -1) for i in range(n)
    ]
    return torch.stack(rows, dim=-2)


def gated_window(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, window: int) -> Tensor:
    width = (q.shape[-1],)
    score = scaled(rms_norm(q, width, eps=1e-6), rms_norm(k, width, eps=1e-6))
    return attend(score + _forgotten(log_f), v, lambda b, h, i: range(max(0, i - window), i + 1))


def _positive(draw: Draw, *shape: int) -> Tensor:
    return draw.uniform(0.3, 2, *shape)


def prefix_gate(q: Tensor, k: Tensor, v: Tensor, prefix: int, a1: Tensor, a2: Tensor) -> Tensor:
    learned, tokens = scaled(q, k[:, :, :prefix]), scaled(q, k[:, :, prefix:])
    return attend_all(torch.cat([learned + a2 * torch.tanh(a1 * learned), tokens], -1), v)


CASES = {
    "temperature": Case(temperature, lambda r: {"tau": _positive(r, r.h)}),
    "log_length": Case(log_length, n=14),
    "softcap": Case(softcap, lambda r: {"cap": 0.7}),
    "qk_norm": Case(qk_norm, lambda r: {"scale": _positive(r, r.h) * 5}),
    "rms_qk_norm": Case(rms_qk_norm, lambda r: {"wq": r.normal(r.d), "wk": r.normal(r.d)}),
    "scale_blocks": Case(
        scale_blocks,
        lambda r: {
            "level": torch.tensor([0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]).expand(r.b, -1),
            "log_scale": torch.tensor([0.3, 1.4, 5.0, 2.0], dtype=torch.float64),
        },
    ),
    "alibi": Case(alibi, lambda r: {"slope": _positive(r, r.h)}),
    "alibi_symmetric": Case(alibi_symmetric, lambda r: {"slope": _positive(r, r.h)}, m=7, n=12),
    "kerple": Case(kerple, lambda r: {"r1": _positive(r, r.h), "r2": _positive(r, r.h)}),
    "t5": Case(t5, lambda r: {"table": r.normal(r.h, 32)}, b=1, m=150, n=160),
    "t5_causal": Case(t5_causal, lambda r: {"table": r.normal(r.h, 32)}, b=1, m=160, n=160),
    "relative_clipped": Case(relative_clipped, lambda r: {"table": r.normal(r.h, 33)}, m=40, n=35),
    "toeplitz": Case(toeplitz, lambda r: {"table": r.normal(r.h, 511)}, m=9, n=13),
    "position_table": Case(position_table, lambda r: {"w": 6 + 3 * r.normal(128, 128)}),
    "pair_bias": Case(
        pair_bias,
        lambda r: {"bias": r.normal(r.b, r.h, r.m, r.n), "g": r.normal(r.b, r.h, r.m, r.e)},
        m=7,
        n=12,
    ),
    "rope": Case(rope),
    "rope_2d": Case(rope_2d, d=8, grid={"GY": 3, "GX": 5}),
    "rope_3d": Case(rope_3d, d=12, grid={"GF": 2, "GY": 3, "GX": 4}),
    "gaussian_window": Case(
        gaussian_window,
        lambda r: {"centre": 5 + 3 * r.normal(r.b, r.h, r.m), "width": _positive(r, r.b, r.h, r.m)},
    ),
    "adaptive_span": Case(adaptive_span, lambda r: {"span": r.uniform(0.1, 5.9, r.h), "ramp": 3.3}),
    "ultra_long_decay": Case(ultra_long_decay, lambda r: {"alpha": 0.6, "window": 6}),
    "token_emphasis": Case(
        token_emphasis,
        lambda r: {"chosen": r.flags(0.4, r.b, r.n), "gamma": _positive(r, r.h)},
    ),
    "key_gated_score": Case(
        key_gated_score,
        lambda r: {"g": r.uniform(0.05, 0.95, r.b, r.n) * r.flags(0.8, r.b, r.n)},
    ),
    "soft_key_mask": Case(
        soft_key_mask, lambda r: {"m": r.uniform(0.1, 1, r.b, r.n) * r.flags(0.7, r.b, r.n)}
    ),
    "gaussian_kernel": Case(gaussian_kernel, lambda r: {"kappa": 0.4}, d=3),
    "forgetting": Case(forgetting, lambda r: {"log_f": -_positive(r, r.b, r.h, r.n)}),
    "gated_window": Case(
        gated_window, lambda r: {"log_f": -_positive(r, r.b, r.h, r.n), "window": 3}
    ),
    "prefix_gate": Case(
        prefix_gate, lambda r: {"prefix": 4, "a1": r.normal(), "a2": r.normal()}, n=14
    ),
}
