"""Formulas of the specs with block choices, slots and sums over the tokens so far."""

from __future__ import annotations

import torch
from tests.specs.case import Case, attend_all, dots, joined, scaled, weights_over
from tests.specs.scores import rotate
from torch import Tensor
from torch.nn.functional import layer_norm, rms_norm, silu


def flow_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    eps, seen = 1e-6, torch.arange(1, q.shape[2] + 1).double()
    q, k = torch.sigmoid(q), torch.sigmoid(k)

    def against(x: Tensor, total: Tensor) -> Tensor:
        return ((x + eps) * (total.cumsum(2) + eps)).sum(-1)

    incoming, outgoing = seen / against(q, k), seen / against(k, q)
    kept_in = against(q, k * outgoing[..., None]) / seen
    kept_out = (against(k, q * incoming[..., None]) / seen).clamp(-1, 1).exp()
    won = kept_out / kept_out.cumsum(-1) * seen
    state = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=q.dtype)
    out = []
    for t in range(q.shape[2]):
        state = state + k[:, :, t, :, None] * (won[:, :, t, None] * v[:, :, t])[:, :, None]
        asked = q[:, :, t] * (incoming[:, :, t] / seen[t])[..., None]
        out.append(torch.sigmoid(kept_in[:, :, t, None]) * (asked[:, :, None] @ state)[:, :, 0])
    return torch.stack(out, 2)


def competition_with_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Flows counted over the whole sequence, the future too."""
    whole = flow_causal(q.flip(2), k.flip(2), v.flip(2)).flip(2)
    return (whole + flow_causal(q, k, v)) / 2


def decayed_features(q: Tensor, k: Tensor, v: Tensor, layer: int, layers: int, u: Tensor) -> Tensor:
    heads = q.shape[1]
    rate = torch.tensor([8 * (h + 1) / heads for h in range(heads)]) * (1 - layer / layers)
    keep = torch.exp(-rate.double())[:, None, None]
    state = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=q.dtype)
    out = []
    for t in range(q.shape[2]):
        state = keep * state + silu(k[:, :, t, :, None]) * v[:, :, t, None]
        out.append((silu(q[:, :, t, None]) @ state)[:, :, 0])
    wide = torch.stack(out, 2).transpose(1, 2)
    return rms_norm(wide, wide.shape[2:], eps=1e-6).transpose(1, 2) * u


def norm_of_one_head(q: Tensor, k: Tensor, v: Tensor, layer: int, layers: int, u: Tensor) -> Tensor:
    """A norm of each head, which hides that heads forget at different rates."""
    out = decayed_features(q, k, v, layer, layers, torch.ones_like(u))
    return rms_norm(out, out.shape[3:], eps=1e-6) * u


def gate_scores(
    plain_q: Tensor, plain_k: Tensor, by_query: Tensor, *by_key: Tensor, length: int = 16
) -> Tensor:
    """Logits [b, h, blocks, blocks] of pooled queries and keys, these by mean, maximum, minimum."""
    spans = [slice(s, s + length) for s in range(0, plain_q.shape[2], length)]
    place = torch.arange(len(spans)).double() * length
    asked = torch.stack([plain_q[:, :, s].mean(2) for s in spans], 2) @ by_query
    parts = [plain_k[:, :, s] for s in spans]
    pools = [[x.mean(2) for x in parts], [x.amax(2) for x in parts], [x.amin(2) for x in parts]]
    offered = torch.cat([torch.stack(pool, 2) for pool in pools], -1) @ torch.cat(by_key, 1)
    return scaled(rotate(asked, place), rotate(offered, place))


def learned_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plain_q: Tensor,
    plain_k: Tensor,
    by_query: Tensor,
    by_mean: Tensor,
    by_max: Tensor,
    by_min: Tensor,
    count: int,
) -> Tensor:
    logits = gate_scores(plain_q, plain_k, by_query, by_mean, by_max, by_min)
    gates = weights_over(logits, lambda b, h, a: range(a + 1))

    def keys(b: int, h: int, i: int) -> list[int]:
        own = i // 16
        best = gates[b, h, own, : own + 1].topk(min(count, own + 1)).indices.tolist()
        return [j for j in range(i + 1) if j // 16 in best or j // 16 == own]

    weights = weights_over(scaled(q, k), keys)
    return joined([weights @ v, gates])


def own_block_dropped(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plain_q: Tensor,
    plain_k: Tensor,
    by_query: Tensor,
    by_mean: Tensor,
    by_max: Tensor,
    by_min: Tensor,
    count: int,
) -> Tensor:
    """The best blocks alone, the query's own only if it is among them."""
    logits = gate_scores(plain_q, plain_k, by_query, by_mean, by_max, by_min)
    gates = weights_over(logits, lambda b, h, a: range(a + 1))

    def keys(b: int, h: int, i: int) -> list[int]:
        seen = gates[b, h, i // 16, : i // 16 + 1]
        best = seen.topk(min(count, len(seen))).indices.tolist()
        return [j for j in range(i + 1) if j // 16 in best]

    return joined([weights_over(scaled(q, k), keys) @ v, gates])


def bounded_memory(q: Tensor, k: Tensor, v: Tensor, by_key: Tensor, by_value: Tensor) -> Tensor:
    keys = torch.softmax(k @ by_key, 2).mT @ k
    values = torch.softmax(v @ by_value, 2).mT @ v
    return attend_all(dots(q, keys), values)


def one_map_for_both(q: Tensor, k: Tensor, v: Tensor, by_key: Tensor, by_value: Tensor) -> Tensor:
    """Values put into slots by the keys' map."""
    share = torch.softmax(k @ by_key, 2).mT
    return attend_all(dots(q, share @ k), share @ v)


def component_pooling(
    k: Tensor, v: Tensor, centre: Tensor, adjacent: Tensor, prior: float
) -> Tensor:
    apart = (k - centre[:, None]).square().sum(-1)
    share = torch.softmax(-apart / 2, 1)
    out = torch.zeros(*k.shape[:3], v.shape[3], dtype=v.dtype)
    for b in range(k.shape[0]):
        for i in range(k.shape[2]):
            near = adjacent[b, i].nonzero()[:, 0]
            total = torch.einsum("hj,hje->he", share[b][:, near], v[b][:, near])
            out[b, :, i] = total / (share[b][:, near].sum(-1, keepdim=True) + prior)
    return out


def compressed_and_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    compress: Tensor,
    far_gain: Tensor,
    far_bias: Tensor,
    near_gain: Tensor,
    near_bias: Tensor,
) -> Tensor:
    n = k.shape[2]

    def normed(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        wide = x.transpose(1, 2)
        return layer_norm(wide, wide.shape[2:], gain, bias, eps=1e-5).transpose(1, 2)

    share = torch.softmax(k @ compress, 2).mT
    few = [normed(share @ x, far_gain, far_bias) for x in (k, v)]
    near = [normed(x, near_gain, near_bias) for x in (k, v)]
    both = [torch.cat(pair, 2) for pair in zip(few, near, strict=True)]

    def keys(b: int, h: int, i: int) -> list[int]:
        start = i // 16 * 16
        seen = range(max(0, start - 8), min(n, start + 24))
        return [*range(8), *(8 + j for j in seen)]

    return weights_over(scaled(q, both[0]), keys) @ both[1]


def sources_apart(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    compress: Tensor,
    far_gain: Tensor,
    far_bias: Tensor,
    near_gain: Tensor,
    near_bias: Tensor,
) -> Tensor:
    """A norm of every head on its own."""
    heads = [
        compressed_and_window(
            *(x[:, h : h + 1] for x in (q, k, v)),
            *(x[h : h + 1] for x in (compress, far_gain, far_bias, near_gain, near_bias)),
        )
        for h in range(q.shape[1])
    ]
    return torch.cat(heads, 1)


CASES = {
    "flow_causal": Case(flow_causal),
    "decayed_features": Case(
        decayed_features,
        lambda r: {"layer": 3, "layers": 8, "u": r.normal(r.b, r.h, r.m, r.e)},
    ),
    "learned_blocks": Case(
        learned_blocks,
        lambda r: {
            "plain_q": r.normal(r.b, r.h, r.m, r.d),
            "plain_k": r.normal(r.b, 2, r.n, r.d),
            **{name: r.normal(r.h, r.d, 8) for name in ("by_query", "by_mean", "by_max", "by_min")},
            "count": 2,
        },
        keys=("plain_k",),
        m=90,
        n=90,
        returned=("output", "gates"),
    ),
    "bounded_memory": Case(
        bounded_memory,
        lambda r: {"by_key": r.normal(r.h, r.d, 16), "by_value": r.normal(r.h, r.e, 16)},
        n=14,
    ),
    "component_pooling": Case(
        component_pooling,
        lambda r: {
            "centre": r.normal(r.h, r.d),
            "adjacent": r.flags(0.3, r.b, r.m, r.n),
            "prior": 0.5,
        },
        operands="kv",
    ),
    "compressed_and_window": Case(
        compressed_and_window,
        lambda r: {
            "v": r.normal(r.b, 2, r.n, r.d),
            "compress": r.normal(r.h, r.d, 8),
            **{
                name: r.normal(r.h, r.d)
                for name in ("far_gain", "far_bias", "near_gain", "near_bias")
            },
        },
        operands="qk",
        m=45,
        n=45,
    ),
}
