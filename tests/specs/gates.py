"""Formulas of the specs with gates on operands or output, and other epilogues."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, Draw, attend_all, attend_causal, dots, scaled
from torch import Tensor


def gated_elementwise(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return attend_causal(scaled(q, k), v) * torch.sigmoid(g)


def gated_headwise(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return attend_causal(scaled(q, k), v) * torch.sigmoid(g)[..., None]


def gated_inputs(q: Tensor, k: Tensor, v: Tensor, gq: Tensor, gk: Tensor, gv: Tensor) -> Tensor:
    q, k, v = (x * torch.sigmoid(gate) for x, gate in ((q, gq), (k, gk), (v, gv)))
    return attend_causal(scaled(q, k), v)


def gated_shared(q: Tensor, k: Tensor, v: Tensor, g: Tensor, theta: Tensor) -> Tensor:
    by_token = 0.5 + 0.5 * torch.sigmoid(g)[:, None]
    by_head = torch.sigmoid(theta)[:, None, None]
    return attend_causal(scaled(q, k), v) * by_token * by_head


def head_gate(q: Tensor, k: Tensor, v: Tensor, theta: Tensor) -> Tensor:
    return torch.einsum("bhie,h->bhie", attend_causal(scaled(q, k), v), torch.sigmoid(theta))


def head_scale(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    return torch.einsum("bhie,bh->bhie", attend_causal(scaled(q, k), v), alpha)


def routed_heads(q: Tensor, k: Tensor, v: Tensor, shared: int, router: Tensor) -> Tensor:
    out = attend_all(scaled(q, k), v)
    routed = out[:, shared:] * router[:, shared:, :, None].clamp(min=0)
    return torch.cat([out[:, :shared], routed], dim=1)


def residual_gate(q: Tensor, k: Tensor, v: Tensor, x: Tensor, g: Tensor) -> Tensor:
    return torch.lerp(x, attend_all(scaled(q, k), v), torch.sigmoid(g))


def soft_injection(q: Tensor, k: Tensor, v: Tensor, task: Tensor, alpha: Tensor) -> Tensor:
    out = attend_causal(scaled(q, k), v)
    mixed = torch.lerp(out[:, :, -1], task, alpha[:, None].expand_as(task))
    return torch.cat([out[:, :, :-1], mixed[:, :, None]], dim=2)


def class_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mq: Tensor,
    mk: Tensor,
    mv: Tensor,
    mo: Tensor,
    sharpness: float,
) -> Tensor:
    gate_q, gate_k, gate_v, gate_o = (
        torch.sigmoid(sharpness * m)[:, None] for m in (mq, mk, mv, mo)
    )
    return gate_o * attend_all(scaled(gate_q * q, gate_k * k), gate_v * v)


def position_attention(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor) -> Tensor:
    return gamma * attend_all(dots(q, k), v)


def set_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend_all(dots(q, k) / math.sqrt(q.shape[1] * q.shape[3]), v)


def memory_read(q: Tensor, k: Tensor) -> Tensor:
    return attend_all(dots(q, k), k)


def mixture_of_heads(
    q: Tensor, k: Tensor, v: Tensor, by_shared: Tensor, by_routed: Tensor, balance: Tensor
) -> Tensor:
    shared, active = 2, 2
    first, second = (2 * torch.softmax(balance, -1))[:, None].unbind(-1)
    common = torch.softmax(by_shared[:, :shared], 1) * shared * first
    best = by_routed[:, shared:].topk(active, dim=1)
    weights = torch.softmax(best.values, 1) * active * second
    routed = torch.zeros_like(by_routed[:, shared:]).scatter(1, best.indices, weights)
    return attend_all(scaled(q, k), v) * torch.cat([common, routed], 1)[..., None]


def latent(q: Tensor, k: Tensor, v: Tensor, qr: Tensor, kr: Tensor) -> Tensor:
    width = qr.shape[-1]
    turns = 10000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(q.shape[2])[:, None] * turns
    cos, sin = angle.cos(), angle.sin()

    def turn(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    return attend_causal(scaled(torch.cat([q, turn(qr)], -1), torch.cat([k, turn(kr)], -1)), v)


def _task_gates(r: Draw) -> dict[str, Tensor | int | float]:
    return {
        "mq": r.normal(r.h, r.d),
        "mk": r.normal(r.h, r.d),
        "mv": r.normal(r.h, r.e),
        "mo": r.normal(r.h, r.e),
        "sharpness": 1.7,
    }


def tanh_gate(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    return torch.tanh(alpha) * attend_all(scaled(q, k), v)


def expert_mixture(q: Tensor, k: Tensor, v: Tensor, router: Tensor) -> Tensor:
    return attend_causal(scaled(q, k), v) * torch.softmax(router, dim=1)[..., None]


def norm_routed_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    shared, active = 2, 2
    lengths = q.detach().norm(dim=-1)
    routing = torch.softmax((lengths / lengths.std(1, keepdim=True))[:, shared:], dim=1)
    kept = torch.zeros_like(routing).scatter(1, routing.topk(active, dim=1).indices, 1.0)
    on = torch.cat([torch.ones_like(lengths[:, :shared]), kept], dim=1)
    return attend_causal(scaled(q, k), v) * on[..., None]


def spatial_gating(v: Tensor, w: Tensor, bias: Tensor, z: Tensor) -> Tensor:
    n = v.shape[2]
    return z * (torch.einsum("ij,bhje->bhie", w[:n, :n], v) + bias[:n, None])


def entropy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # Row by row: - sum p log p over the keys up to the query.
    rows = [torch.softmax(scaled(q, k)[:, :, i, : i + 1], -1) for i in range(q.shape[2])]
    return torch.stack([-(p * p.log()).sum(-1) for p in rows], dim=2)


def interpretable_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend_causal(scaled(q, k), v).mean(1)


CASES = {
    "gated_elementwise": Case(gated_elementwise, lambda r: {"g": r.normal(r.b, r.h, r.m, r.e)}),
    "gated_headwise": Case(gated_headwise, lambda r: {"g": r.normal(r.b, r.h, r.m)}),
    "gated_inputs": Case(
        gated_inputs,
        lambda r: {
            "gq": r.normal(r.b, r.h, r.m, r.d),
            "gk": r.normal(r.b, 2, r.n, r.d),
            "gv": r.normal(r.b, 2, r.n, r.e),
        },
        keys=("gk", "gv"),
    ),
    "gated_shared": Case(
        gated_shared, lambda r: {"g": r.normal(r.b, r.m, r.e), "theta": r.normal(r.h)}
    ),
    "head_gate": Case(head_gate, lambda r: {"theta": r.normal(r.h)}),
    "head_scale": Case(head_scale, lambda r: {"alpha": r.normal(r.b, r.h)}),
    "routed_heads": Case(routed_heads, lambda r: {"shared": 1, "router": r.normal(r.b, r.h, r.m)}),
    "residual_gate": Case(
        residual_gate,
        lambda r: {"x": r.normal(r.b, r.h, r.m, r.e), "g": r.normal(r.b, r.h, r.m, r.e)},
    ),
    "soft_injection": Case(
        soft_injection,
        lambda r: {"task": r.normal(r.b, r.h, r.e), "alpha": r.uniform(0, 1, r.h)},
    ),
    "class_attention": Case(class_attention, _task_gates, m=1),
    "position_attention": Case(position_attention, lambda r: {"gamma": r.normal()}),
    "set_attention": Case(set_attention, m=3),
    "memory_read": Case(memory_read, operands="qk", n=14),
    "mixture_of_heads": Case(
        mixture_of_heads,
        lambda r: {
            "by_shared": r.normal(r.b, r.h, r.m),
            "by_routed": r.normal(r.b, r.h, r.m),
            "balance": r.normal(r.b, r.m, 2),
        },
        h=6,
    ),
    "latent": Case(
        latent,
        lambda r: {"qr": r.normal(r.b, r.h, r.m, 4), "kr": r.normal(r.b, 1, r.n, 4)},
        keys=("kr",),
    ),
    "tanh_gate": Case(tanh_gate, lambda r: {"alpha": r.normal()}, m=5),
    "expert_mixture": Case(expert_mixture, lambda r: {"router": r.normal(r.b, r.h, r.m)}),
    "norm_routed_heads": Case(norm_routed_heads, h=6),
    "spatial_gating": Case(
        spatial_gating,
        lambda r: {
            "w": r.normal(128, 128),
            "bias": r.normal(128),
            "z": r.normal(r.b, r.h, r.m, r.e),
        },
        operands="v",
    ),
    "entropy": Case(entropy, returned=("entropy",)),
    "interpretable_heads": Case(
        interpretable_heads, lambda r: {"v": r.normal(r.b, 1, r.n, r.e)}, returned=("y",)
    ),
}
