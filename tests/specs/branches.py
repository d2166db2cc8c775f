"""Formulas of the specs that select or reweigh pairs, or merge what was read with the token."""

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
    joined,
    scaled,
    weights_over,
)
from torch import Tensor
from torch.nn.functional import layer_norm, pad, relu, silu


def redistributed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor,
    visual: Tensor,
    p: float,
    rho: float,
    least: float,
) -> Tensor:
    weights = weights_over(scaled(q, k), lambda b, h, i: range(i + 1))
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for b in range(q.shape[0]):
        seen, drained = visual[b], visual[b] & sinks[b]
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                row = weights[b, h, i]
                in_image, in_sinks = row[seen].sum(), row[drained].sum()
                if in_image >= least and in_sinks / in_image <= rho:
                    budget = (1 - p) * in_sinks
                    rest = row[seen & ~drained].sum()
                    grown = row + budget * row / rest
                    row = torch.where(drained, p * row, torch.where(seen, grown, row))
                out[b, h, i] = row @ v[b, h]
    return out


def every_row_redistributed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor,
    visual: Tensor,
    p: float,
    rho: float,
    least: float,
) -> Tensor:
    """Rows that hardly look at the image changed as well."""
    return redistributed(q, k, v, sinks, visual, p, 0.99, 1e-9)


def leading_queries(q: Tensor, k: Tensor, v: Tensor, importance: Tensor, count: int) -> Tensor:
    rows = importance.topk(count, dim=1).indices
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for b in range(q.shape[0]):
        out[b, :, rows[b]] = attend_all(scaled(q[b, :, rows[b]][None], k[b][None]), v[b][None])[0]
    return out


def leading_keys(q: Tensor, k: Tensor, v: Tensor, importance: Tensor, count: int) -> Tensor:
    """The important tokens read, where they are to ask."""
    rows = importance.topk(count, dim=1).indices
    return attend(scaled(q, k), v, lambda b, h, i: rows[b].tolist())


def selected_keys(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor, importance: Tensor, count: int
) -> Tensor:
    rows = importance.topk(count, dim=1).indices
    return x + attend(dots(q, k), v, lambda b, h, i: rows[b].tolist())


def budgeted_residual(q: Tensor, k: Tensor, v: Tensor, x: Tensor, g: Tensor, budget: int) -> Tensor:
    opened = torch.sigmoid(g)
    rows = opened.mean((1, 3)).topk(budget, dim=1).indices
    read = torch.zeros_like(x)
    for b in range(q.shape[0]):
        for i in rows[b].tolist():
            score = torch.einsum("hd,hjd->hj", q[b, :, i], k[b, :, : i + 1])
            weights = torch.softmax(score / math.sqrt(q.shape[3]), -1)
            read[b, :, i] = torch.einsum("hj,hje->he", weights, v[b, :, : i + 1])
    return x + opened * read


def selective_lookup(q: Tensor, k: Tensor, v: Tensor, x: Tensor, need: Tensor) -> Tensor:
    return x + torch.softmax(need, dim=2)[..., None] * attend_causal(scaled(q, k), v)


def repeated_tokens(q: Tensor, k: Tensor, v: Tensor, token: Tensor) -> Tensor:
    def keys(b: int, h: int, i: int) -> range:
        return range(i + 1) if token[b, i] in token[b, :i] else range(0)

    return attend(scaled(q, k), v, keys)


def its_own_repetition(q: Tensor, k: Tensor, v: Tensor, token: Tensor) -> Tensor:
    """A token counted as its own earlier occurrence: every query attends."""
    return attend_causal(scaled(q, k), v)


def modality_gate(q: Tensor, k: Tensor, v: Tensor, modality: Tensor, open: Tensor) -> Tensor:
    def part(of: Tensor) -> Tensor:
        keys = [[j for j in range(k.shape[2]) if row[j]] for row in of]
        return attend(scaled(q, k), v, lambda b, h, i: [j for j in keys[b] if j <= i])

    return part(~modality) + torch.tanh(open)[..., None] * part(modality)


def modalities_together(q: Tensor, k: Tensor, v: Tensor, modality: Tensor, open: Tensor) -> Tensor:
    """One softmax over both modalities, with the gate on its columns."""
    gate = torch.where(modality[:, None, None], torch.tanh(open)[..., None], 1.0)
    return weights_over(scaled(q, k), lambda b, h, i: range(i + 1)) * gate @ v


def pattern_override(q: Tensor, k: Tensor, v: Tensor, pattern: Tensor, share: Tensor) -> Tensor:
    own = weights_over(scaled(q, k), lambda b, h, i: range(i + 1))
    return torch.lerp(own, pattern.tril(), share[:, None, None].expand_as(own)) @ v


def object_pointer(q: Tensor, k: Tensor, object: Tensor) -> Tensor:
    weights = weights_over(dots(q, k), lambda b, h, i: object[b].nonzero()[:, 0].tolist())
    logits = dots(q, k).masked_fill(~object[:, None, None], -math.inf)
    return joined([weights, torch.logsumexp(logits, -1)])


def grounding_map(q: Tensor, k: Tensor, background: Tensor) -> Tensor:
    weights = torch.softmax(scaled(q, k), -1)
    return joined([weights, torch.einsum("bhij,bj->bhi", weights, background.double())])


def guided_pooling(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    product = torch.tanh(q[:, :, :, None] * k[:, :, None])
    return attend_all(torch.einsum("bhijd,hd->bhij", product, w), v)


def convex_decay(q: Tensor, k: Tensor, v: Tensor, z: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    state = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=q.dtype)
    out = []
    for t in range(q.shape[2]):
        g = gate[:, :, t, None, None]
        state = (1 - g) * state + g * k[:, :, t, :, None] * v[:, :, t, None]
        out.append((q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(out, 2)


def own_gate_decays(q: Tensor, k: Tensor, v: Tensor, z: Tensor) -> Tensor:
    """A token also faded by what its own gate leaves."""
    return convex_decay(q, k, v * torch.sigmoid(-z)[..., None], z)


def linear(x: Tensor, matrix: Tensor) -> Tensor:
    """A matrix [h, in, out] for each head."""
    return torch.einsum("bhie,hef->bhif", x, matrix)


def token_fusion(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    from_token: Tensor,
    from_read: Tensor,
    bias: Tensor,
) -> Tensor:
    read = attend_all(scaled(q, k), v)
    both = linear(torch.cat([x, read], -1), torch.cat([from_token, from_read], 1))
    return torch.lerp(x, read, torch.sigmoid(both + bias[:, None]))


def glu_skip(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    gate_map: Tensor,
    gate_bias: Tensor,
    value_map: Tensor,
    value_bias: Tensor,
    gain: Tensor,
    bias: Tensor,
) -> Tensor:
    read = attend_causal(scaled(q, k), v)
    share = torch.sigmoid(linear(read, gate_map) + gate_bias[:, None])
    total = x + share * (linear(read, value_map) + value_bias[:, None])
    return layer_norm(total, total.shape[-1:], eps=1e-5) * gain[:, None] + bias[:, None]


def read_gate(q: Tensor, k: Tensor, v: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    read = attend_all(scaled(q, k), v)
    hidden = relu(read.transpose(1, 2).flatten(2) @ down.flatten(0, 1))
    logits = (hidden @ up.flatten(1)).unflatten(2, read.shape[1::2]).transpose(1, 2)
    return x + read * torch.sigmoid(logits - 4)


def guided_context(
    v: Tensor,
    guide: Tensor,
    pool: Tensor,
    transform: Tensor,
    from_token: Tensor,
    from_guide: Tensor,
    psi: Tensor,
) -> Tensor:
    weights = torch.softmax(torch.einsum("bhje,he->bhj", v, pool), -1)
    token = v + linear(torch.einsum("bhj,bhje->bhe", weights, v)[:, :, None], transform)
    hidden = relu(linear(token, from_token) + linear(guide, from_guide))
    return torch.sigmoid(torch.einsum("bhir,hr->bhi", hidden, psi))[..., None] * token


def spatial_gating_attention(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, bias: Tensor, z: Tensor, tiny: Tensor
) -> Tensor:
    n = v.shape[2]
    mixed = torch.einsum("ij,bhje->bhie", w[:n, :n], v) + bias[:n, None]
    return z * (mixed + attend_all(scaled(q, k), tiny))


def associative_memory(
    k: Tensor, x: Tensor, local_gate: Tensor, global_gate: Tensor, taps: Tensor
) -> Tensor:
    shifted = [pad(x, (0, 0, u, 0))[:, :, : x.shape[2]] for u in range(taps.shape[1])]
    local = sum(taps[:, u, None] * part for u, part in enumerate(shifted))
    return torch.sigmoid(local_gate) * local + torch.sigmoid(global_gate) * attend_all(
        dots(x, k), k
    )


def moving_average_gate(
    v: Tensor,
    shared: Tensor,
    reset: Tensor,
    candidate: Tensor,
    update: Tensor,
    x: Tensor,
    by_query: Tensor,
    to_query: Tensor,
    by_key: Tensor,
    to_key: Tensor,
    table: Tensor,
    up: Tensor,
) -> Tensor:
    n = v.shape[2]
    q, k = by_query * shared + to_query, by_key * shared + to_key
    bias = table[each_pair(n, n, lambda i, j: 255 + j - i).long()]
    read = attend_all(scaled(q, k) + bias, v) * silu(reset)
    return torch.lerp(x, silu(candidate + read @ up), torch.sigmoid(update))


def _moving_average(r: Draw) -> dict[str, Tensor | int | float]:
    return {
        "shared": r.normal(r.b, r.h, r.m, r.d),
        "reset": r.normal(r.b, r.h, r.m, r.e),
        **{name: r.normal(r.b, r.h, r.m, 3) for name in ("candidate", "update", "x")},
        **{name: r.normal(r.d) for name in ("by_query", "to_query", "by_key", "to_key")},
        "table": r.normal(511),
        "up": r.normal(r.e, 3),
    }


def _residual(r: Draw) -> Tensor:
    return r.normal(r.b, r.h, r.m, r.e)


def _square(r: Draw) -> Tensor:
    return r.normal(r.h, r.e, r.e) / 2


CASES = {
    "visual_redistribution": Case(
        redistributed,
        lambda r: {
            "sinks": r.flags(0.4, r.b, r.n),
            "visual": r.flags(0.6, r.b, r.n),
            "p": 0.6,
            "rho": 0.5,
            "least": 0.3,
        },
    ),
    "leading_queries": Case(
        leading_queries, lambda r: {"importance": r.normal(r.b, r.m), "count": 4}
    ),
    "selected_keys": Case(
        selected_keys,
        lambda r: {"x": _residual(r), "importance": r.normal(r.b, r.n), "count": 4},
    ),
    "budgeted_residual": Case(
        budgeted_residual, lambda r: {"x": _residual(r), "g": _residual(r), "budget": 4}
    ),
    "selective_lookup": Case(
        selective_lookup, lambda r: {"x": _residual(r), "need": r.normal(r.b, r.h, r.m)}
    ),
    "repeated_tokens": Case(repeated_tokens, lambda r: {"token": r.ints(0, 6, r.b, r.n)}),
    "modality_gate": Case(
        modality_gate,
        lambda r: {"modality": r.flags(0.4, r.b, r.n), "open": r.normal(r.b, r.h, r.m)},
    ),
    "pattern_override": Case(
        pattern_override,
        lambda r: {"pattern": r.uniform(0, 1, r.b, r.h, r.m, r.n), "share": r.uniform(0, 1, r.h)},
    ),
    "object_pointer": Case(
        object_pointer,
        lambda r: {"object": r.flags(0.7, r.b, r.n)},
        operands="qk",
        n=14,
        returned=("p", "lse"),
    ),
    "grounding_map": Case(
        grounding_map,
        lambda r: {"background": r.flags(0.5, r.b, r.n)},
        operands="qk",
        m=1,
        n=14,
        returned=("map", "spilled"),
    ),
    "guided_pooling": Case(guided_pooling, lambda r: {"w": r.normal(r.h, r.d)}, m=2, n=14),
    "convex_decay": Case(convex_decay, lambda r: {"z": r.normal(r.b, r.h, r.n)}),
    "token_fusion": Case(
        token_fusion,
        lambda r: {
            "x": _residual(r),
            "from_token": _square(r),
            "from_read": _square(r),
            "bias": r.normal(r.h, r.e),
        },
        n=14,
    ),
    "glu_skip": Case(
        glu_skip,
        lambda r: {
            "x": _residual(r),
            "gate_map": _square(r),
            "value_map": _square(r),
            **{name: r.normal(r.h, r.e) for name in ("gate_bias", "value_bias", "gain", "bias")},
        },
    ),
    "read_gate": Case(
        read_gate,
        lambda r: {"x": _residual(r), "down": r.normal(r.h, r.e, 8), "up": r.normal(8, r.h, r.e)},
        n=14,
    ),
    "guided_context": Case(
        guided_context,
        lambda r: {
            "guide": r.normal(r.b, r.h, r.m, 3),
            "pool": r.normal(r.h, r.e),
            "transform": _square(r),
            "from_token": r.normal(r.h, r.e, 7),
            "from_guide": r.normal(r.h, 3, 7),
            "psi": r.normal(r.h, 7),
        },
        operands="v",
    ),
    "spatial_gating_attention": Case(
        spatial_gating_attention,
        lambda r: {
            "w": r.normal(128, 128),
            "bias": r.normal(128),
            "z": _residual(r),
            "tiny": r.normal(r.b, 2, r.n, r.e),
        },
        keys=("tiny",),
    ),
    "associative_memory": Case(
        associative_memory,
        lambda r: {
            "x": r.normal(r.b, r.h, r.m, r.d),
            "local_gate": r.normal(r.b, r.h, r.m, r.d),
            "global_gate": r.normal(r.b, r.h, r.m, r.d),
            "taps": r.normal(r.h, 3, r.d),
        },
        operands="k",
        n=14,
    ),
    "moving_average_gate": Case(moving_average_gate, _moving_average, operands="v"),
}
