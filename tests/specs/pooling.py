"""Formulas of the specs that gather first: contexts, codebooks, branches, merged tokens."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, Draw, attend_all, attend_causal, dots, fold, joined, scaled
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, cosine_similarity, normalize, pad


def pool(x: Tensor, vector: Tensor, scale: float = 1.0) -> Tensor:
    """Mean of x [b, h, n, d] under the softmax of its products with a vector [h, d]."""
    logits = torch.einsum("bhnd,hd->bhn", x, vector) * scale
    return torch.einsum("bhn,bhnd->bhd", torch.softmax(logits, -1), x)


def branch_merge(
    a: Tensor,
    c: Tensor,
    pool_a: Tensor,
    pool_c: Tensor,
    rate_a: Tensor,
    rate_c: Tensor,
) -> Tensor:
    scale = 1 / math.sqrt(a.shape[-1])
    pooled = [pool(a, pool_a, scale), pool(c, pool_c, scale)]
    rates = [(x * rate).sum(-1) for x, rate in zip(pooled, (rate_a, rate_c), strict=True)]
    shares = torch.softmax(torch.stack(rates), 0)[..., None, None]
    return shares[0] * a + shares[1] * c


def additive_pooling(
    q: Tensor, k: Tensor, v: Tensor, pool_q: Tensor, pool_k: Tensor, project: Tensor
) -> Tensor:
    met = pool(q, pool_q)[:, :, None] * k
    return (pool(met, pool_k)[:, :, None] * v) @ project + q


def temporal_gaussian(
    q: Tensor, k: Tensor, v: Tensor, reach: int, gf: int, gy: int, gx: int
) -> Tensor:
    # Frame by frame and place by place; the weights of one place over a patch of the frame before.
    qs, ks, vs = (fold(x, 2, gf, gy, gx) for x in (q, k, v))
    out = torch.zeros_like(vs)
    out = out.expand(q.shape[0], q.shape[1], *out.shape[2:]).clone()
    for f in range(1, gf):
        for y in range(gy):
            for x in range(gx):
                rows = slice(max(0, y - reach), y + reach + 1)
                columns = slice(max(0, x - reach), x + reach + 1)
                keys, values = (z[:, :, f - 1, rows, columns].flatten(2, 3) for z in (ks, vs))
                apart = (qs[:, :, f, y, x, None] - keys).square().sum(-1)
                weights = torch.exp(-apart)
                weights = weights / weights.sum(-1, keepdim=True)
                out[:, :, f, y, x] = (weights[..., None] * values).sum(2)
    return out.flatten(2, 4)


def region_codebook(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    space_k: Tensor,
    space_v: Tensor,
    time_k: Tensor,
    time_v: Tensor,
    region: Tensor,
) -> Tensor:
    batch = q.shape[0]
    sources = [(k, v), (space_k, space_v), (time_k, time_v)]
    found = [attend_all(scaled(q, a.expand(batch, *a.shape[-3:])), b) for a, b in sources]
    return x + region[:, None, :, None] * sum(found)


def lookup_table(
    q: Tensor, v: Tensor, row_keys: Tensor, column_keys: Tensor, gy_j: int, gx_j: int
) -> Tensor:
    # Two softmaxes, and the outer product of their weights.
    alpha, beta = (torch.softmax(dots(q, x), -1) for x in (row_keys, column_keys))
    return torch.einsum("bhir,bhic,bhrce->bhie", alpha, beta, fold(v, 2, gy_j, gx_j))


def query_aggregation(q: Tensor, k: Tensor, v: Tensor, reference: Tensor) -> Tensor:
    found = attend_all(scaled(q, k), v)
    return joined([found, normalize(found.mT @ reference, dim=-2)])


def attention_free(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = k.exp() / k.exp().sum(2, keepdim=True)
    return torch.sigmoid(q) * (weights * v).sum(2, keepdim=True)


def factorised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q @ (torch.softmax(k, 2).mT @ v) / math.sqrt(q.shape[-1])


def convolutional_positions(
    q: Tensor, k: Tensor, v: Tensor, kernel: Tensor, wide: int, reach: Tensor
) -> Tensor:
    image = fold(v[:, :, 1:], 2, -1, wide).movedim(-1, 2)
    heads = []
    for h, around in enumerate(reach.tolist()):
        cut = slice(3 - around, 4 + around)
        taps = kernel[h, cut, cut].movedim(-1, 0)[:, None]
        heads.append(conv2d(image[:, h], taps, padding=around, groups=len(taps)))
    local = torch.stack(heads, 1).flatten(3, 4).mT
    return factorised(q, k, v) + q * pad(local, (0, 0, 1, 0))


def gather_scatter(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    rest: Tensor,
    merge_in: Tensor,
    merge_out: Tensor,
    heat: Tensor,
    tau: float,
) -> Tensor:
    def through(share: Tensor, merge: Tensor) -> Tensor:
        # A merged token is a sum of tokens, projected like any other.
        weights = (share[:, None, :, None] * x @ merge.mT) * share[:, None, :, None]
        return attend_all(scaled(q, weights.mT @ k), weights.mT @ v)

    out = rest.clone()
    fore, back = through(heat, merge_in), through(1 - heat, merge_out)
    for b, row in enumerate(heat):
        inside, outside = (row >= tau).nonzero()[:, 0], (row < 1 - tau).nonzero()[:, 0]
        out[b, :, inside], out[b, :, outside] = fore[b, :, inside], back[b, :, outside]
    return out


def trajectory(q: Tensor, k: Tensor, v: Tensor, path: Tensor) -> Tensor:
    out = []
    for b, frames in enumerate(path):
        match = torch.stack([cosine_similarity(q[b], k[b][:, at], dim=-1) for at in frames])
        values = torch.stack([v[b][:, at] for at in frames])
        best = match.max(0)
        at = best.indices[None, ..., None].expand(1, *values.shape[1:])
        out.append(best.values[..., None] * values.gather(0, at)[0])
    return torch.stack(out)


def head_tokens(q: Tensor, k: Tensor, v: Tensor, extra: int) -> Tensor:
    found = attend_all(scaled(q, k), v)
    merged = found[:, :, :1] + found[:, :, -extra:].mean(2, keepdim=True)
    return torch.cat([merged, found[:, :, 1:]], 2)


def _convolved(x: Tensor, taps: Tensor) -> Tensor:
    """Depthwise convolution along tokens, which sees the past alone; taps [h, 3, d]."""
    heads, width = x.shape[1], x.shape[3]
    channels = pad(x, (0, 0, 2, 0)).mT.flatten(1, 2)
    kernel = taps.mT.flatten(0, 1)[:, None]
    out: Tensor = conv1d(channels, kernel, groups=heads * width)
    return fold(out, 1, heads, width).mT


def relative_convolutional(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    conv_q: Tensor,
    conv_k: Tensor,
    conv_v: Tensor,
    rows: Tensor,
    content: Tensor,
    position: Tensor,
) -> Tensor:
    n = q.shape[2]
    q, k, v = _convolved(q, conv_q), _convolved(k, conv_k), _convolved(v, conv_v)
    by_distance = torch.einsum("bhid,hld->bhil", q + position[:, None], rows)
    shifted = [[by_distance[:, :, i, max(i - j, 0)] for j in range(n)] for i in range(n)]
    bias = torch.stack([torch.stack(row, -1) for row in shifted], 2)
    return attend_causal((dots(q + content[:, None], k) + bias) / math.sqrt(q.shape[-1]), v)


def page_selection(q: Tensor, k: Tensor, v: Tensor, pages: int, group: int) -> Tensor:
    length, n = 16, k.shape[2]
    starts = range(0, n, length)
    means = torch.stack([k[:, :, at : at + length].mean(2) for at in starts], 2)
    asked = q.unflatten(1, (-1, group)).sum(2).repeat_interleave(group, 1)
    rank, score = dots(asked, means), scaled(q, k)
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    for i in range(n):
        seen = i // length + 1
        best = rank[:, :, i, :seen].topk(min(pages, seen), -1).indices
        chosen = torch.zeros(*best.shape[:2], len(starts), dtype=torch.bool).scatter(2, best, True)
        open_keys = chosen.repeat_interleave(length, 2)[..., : i + 1]
        logits = score[:, :, i, : i + 1].masked_fill(~open_keys, -math.inf)
        out[:, :, i] = torch.einsum("bhj,bhje->bhe", torch.softmax(logits, -1), v[:, :, : i + 1])
    return out


def _codebooks(r: Draw) -> dict[str, Tensor]:
    return {
        "x": r.normal(r.b, r.h, r.m, r.e),
        "space_k": r.normal(r.h, 4, r.d),
        "space_v": r.normal(r.h, 4, r.e),
        "time_k": r.normal(r.h, 3, r.d),
        "time_v": r.normal(r.h, 3, r.e),
        "region": r.uniform(0, 1, r.b, r.m),
    }


CASES = {
    "branch_merge": Case(
        branch_merge,
        lambda r: {
            "a": r.normal(r.b, r.h, r.m, r.e),
            "c": r.normal(r.b, r.h, r.m, r.e),
            **{name: r.normal(r.h, r.e) for name in ("pool_a", "pool_c", "rate_a", "rate_c")},
        },
        operands="",
    ),
    "additive_pooling": Case(
        additive_pooling,
        lambda r: {
            "pool_q": r.normal(r.h, r.d),
            "pool_k": r.normal(r.h, r.d),
            "project": r.normal(r.h, r.d, r.d),
        },
        e=6,
    ),
    "temporal_gaussian": Case(
        temporal_gaussian, lambda r: {"reach": 1}, d=3, grid={"GF": 3, "GY": 3, "GX": 4}
    ),
    "region_codebook": Case(region_codebook, _codebooks, n=14),
    "lookup_table": Case(
        lookup_table,
        lambda r: {
            "row_keys": r.normal(r.b, r.h, 3, r.d),
            "column_keys": r.normal(r.b, r.h, 5, r.d),
        },
        operands="qv",
        m=11,
        grid={"GY_j": 3, "GX_j": 5},
    ),
    "query_aggregation": Case(
        query_aggregation,
        lambda r: {"reference": r.normal(r.h, r.m, 3)},
        m=7,
        n=14,
        returned=("output", "descriptor"),
    ),
    "attention_free": Case(attention_free, d=5, e=5, n=14),
    "factorised": Case(factorised, n=14),
    "convolutional_positions": Case(
        convolutional_positions,
        lambda r: {
            "kernel": r.normal(r.h, 7, 7, r.d),
            "wide": 3,
            "reach": torch.tensor([1, 2, 3, 0]),
        },
        m=13,
        n=13,
        e=6,
    ),
    "gather_scatter": Case(
        gather_scatter,
        lambda r: {
            "x": r.normal(r.b, 1, r.n, r.d),
            "rest": r.normal(r.b, r.h, r.m, r.e),
            "merge_in": r.normal(3, r.d) / 3,
            "merge_out": r.normal(3, r.d) / 3,
            "heat": r.uniform(0, 1, r.b, r.n),
            "tau": 0.7,
        },
        keys=("x",),
    ),
    "trajectory": Case(trajectory, lambda r: {"path": r.ints(0, r.n, r.b, 3, r.m)}, n=33),
    "head_tokens": Case(head_tokens, lambda r: {"extra": 4}, m=13, n=13),
    "page_selection": Case(page_selection, lambda r: {"pages": 2, "group": 2}, m=70, n=70),
    "relative_convolutional": Case(
        relative_convolutional,
        lambda r: {
            "conv_q": r.normal(r.h, 3, r.d),
            "conv_k": r.normal(r.h, 3, r.d),
            "conv_v": r.normal(r.h, 3, r.e),
            "rows": r.normal(r.h, 64, r.d),
            "content": r.normal(r.h, r.d),
            "position": r.normal(r.h, r.d),
        },
    ),
}
