"""Formulas of the specs that use a map twice, transposed, or after statistics of it."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, Draw, attend_all, dots, fold, joined, scaled, weights_over
from torch import Tensor
from torch.nn.functional import conv2d


def bidirectional_reading(q: Tensor, k: Tensor, v: Tensor, own_v: Tensor) -> Tensor:
    weights = torch.softmax(scaled(q, k), -1)
    return joined([weights @ v, weights.mT @ own_v])


def written_normalised(q: Tensor, k: Tensor, v: Tensor, own_v: Tensor) -> Tensor:
    """The transposed map normalised again, so that every token is written to."""
    score = scaled(q, k)
    return joined([torch.softmax(score, -1) @ v, torch.softmax(score.mT, -1) @ own_v])


def reversed_attention(
    q: Tensor, k: Tensor, v: Tensor, head_logit: Tensor, message: Tensor
) -> Tensor:
    sent = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    over_heads = torch.softmax(head_logit, 1) * message[:, None]
    for child in range(k.shape[2]):
        logits = torch.einsum("bhd,bhpd->bhp", k[:, :, child], q) / math.sqrt(q.shape[3])
        parents = torch.softmax(logits, -1) * over_heads[:, :, child, None]
        sent = sent + parents[..., None] * v[:, :, child, None]
    return sent


def parents_choose(q: Tensor, k: Tensor, v: Tensor, head_logit: Tensor, message: Tensor) -> Tensor:
    """Parents distribute themselves over children: a softmax over the keys."""
    over_heads = torch.softmax(head_logit, 1) * message[:, None]
    return torch.softmax(scaled(q, k), -1) * over_heads[:, :, None] @ v


def sink_calibration(
    q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, alpha: float, beta: float
) -> Tensor:
    weights = weights_over(scaled(q, k), lambda b, h, i: range(i + 1))
    n = k.shape[2]
    out = weights.clone()
    for b in range(q.shape[0]):
        for h in chosen.nonzero()[:, 0].tolist():
            mean = weights[b, h].sum(0) / torch.arange(n, 0, -1)
            sink = mean > alpha / n
            sink[0] = False
            freed = (1 - beta) * weights[b, h][:, sink].sum(-1, keepdim=True)
            kept = weights[b, h] * ~sink
            shared = freed * kept / kept.sum(-1, keepdim=True)
            out[b, h] = torch.where(sink, beta * weights[b, h], kept + shared)
    return out @ v


def sinks_of_column_sums(
    q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, alpha: float, beta: float
) -> Tensor:
    """Means over all queries, those too that do not see the key."""
    n = k.shape[2]
    weights = weights_over(scaled(q, k), lambda b, h, i: range(i + 1))
    sink = (weights.mean(2) > alpha / n) & chosen[:, None]
    sink[..., 0] = False
    freed = (1 - beta) * (weights * sink[:, :, None]).sum(-1, keepdim=True)
    kept = weights * ~sink[:, :, None]
    grown = kept * (1 + freed / kept.sum(-1, keepdim=True))
    return torch.where(sink[:, :, None], beta * weights, grown) @ v


def dual_softmax(q: Tensor, k: Tensor, heat: Tensor) -> Tensor:
    score = -heat * (q[:, :, :, None] - k[:, :, None]).norm(dim=-1)
    return torch.softmax(score, 3) * torch.softmax(score, 2)


def one_way_match(q: Tensor, k: Tensor, heat: Tensor) -> Tensor:
    """One direction's choice alone."""
    return torch.softmax(-heat * (q[:, :, :, None] - k[:, :, None]).norm(dim=-1), 3)


def flow(q: Tensor, k: Tensor, v: Tensor, compete: bool = True) -> Tensor:
    eps, m, n = 1e-6, q.shape[2], k.shape[2]
    q, k = torch.sigmoid(q), torch.sigmoid(k)

    def against(x: Tensor, total: Tensor) -> Tensor:
        return torch.einsum("bhnd,bhd->bhn", x + eps, total + eps)

    incoming, outgoing = against(q, k.sum(2)), against(k, q.sum(2))
    kept_in = against(q, (k / outgoing[..., None]).sum(2))
    kept_out = against(k, (q / incoming[..., None]).sum(2)).clamp(-1, 1)
    if compete:
        v = torch.softmax(kept_out, -1)[..., None] * n * v
    read = q / incoming[..., None] @ (k.mT @ v)
    return torch.sigmoid(kept_in * m / n)[..., None] * read


def no_competition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Sources that do not compete: values as they are."""
    return flow(q, k, v, compete=False)


def span_summaries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    length, n = 64, k.shape[2]
    out: list[Tensor] = []
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for start in range(0, n, length):
        span = slice(start, min(start + length, n))
        size = span.stop - start
        both = torch.cat([*keys, k[:, :, span]], 2)
        logits = scaled(q[:, :, span], both)
        future = torch.ones(size, size, dtype=torch.bool).triu(1)
        closed = torch.cat([torch.zeros(size, len(keys), dtype=torch.bool), future], 1)
        weights = torch.softmax(logits.masked_fill(closed, -math.inf), -1)
        out.append(weights @ torch.cat([*values, v[:, :, span]], 2))
        keys.append(k[:, :, span].amax(2, keepdim=True))
        values.append(
            attend_all(scaled(q[:, :, span].amax(2, keepdim=True), k[:, :, span]), v[:, :, span])
        )
    return torch.cat(out, 2)


def means_of_spans(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Summaries that are plain means of keys and values."""
    length, n = 64, k.shape[2]
    starts = range(0, n, length)
    means = [torch.cat([x[:, :, s : s + length].mean(2, True) for s in starts], 2) for x in (k, v)]
    score = scaled(q, torch.cat([means[0], k], 2))
    count = len(starts)

    def keys(b: int, h: int, i: int) -> list[int]:
        own = i // length
        return [*range(own), *range(count + own * length, count + i + 1)]

    return weights_over(score, keys) @ torch.cat([means[1], v], 2)


def routed(
    q: Tensor, k: Tensor, v: Tensor, taps: Tensor, together: bool, gy: int, gx: int
) -> Tensor:
    """Attention inside the regions chosen by all heads together, or by each head on its own."""
    b, heads, n, e = v.shape
    region = torch.arange(n) // gx // (gy // 7) * 7 + torch.arange(n) % gx // (gx // 7)
    member = torch.nn.functional.one_hot(region, 49).double()
    size = member.sum(0)
    pooled = [torch.einsum("nr,bhnd->bhrd", member, x.detach()) / size[:, None] for x in (q, k)]
    affinity = dots(pooled[0], pooled[1])
    if together:
        affinity = affinity.sum(1, keepdim=True).expand_as(affinity)
    best = affinity.topk(4, dim=-1).indices

    def keys(batch: int, h: int, i: int) -> list[int]:
        mine = best[batch, h, region[i]]
        return torch.isin(region, mine).nonzero()[:, 0].tolist()

    score = dots(q, k) / math.sqrt(heads * q.shape[3])
    image = fold(v.transpose(2, 3), 3, gy, gx).flatten(1, 2)
    kernel = taps.movedim(-1, 1).flatten(0, 1)[:, None]
    near = conv2d(image, kernel, padding=2, groups=heads * e)
    return weights_over(score, keys) @ v + near.view(b, heads, e, n).transpose(2, 3)


def region_routing(q: Tensor, k: Tensor, v: Tensor, taps: Tensor, gy: int, gx: int) -> Tensor:
    return routed(q, k, v, taps, True, gy, gx)


def heads_route_alone(q: Tensor, k: Tensor, v: Tensor, taps: Tensor, gy: int, gx: int) -> Tensor:
    """Each head with regions of its own."""
    return routed(q, k, v, taps, False, gy, gx)


def sparse_queries(q: Tensor, k: Tensor, v: Tensor, sampled: Tensor, count: int) -> Tensor:
    score = dots(q, k).detach()
    largest = score.masked_fill(~sampled, -math.inf).amax(-1)
    measure = largest - (score * sampled).sum(-1) / k.shape[2]
    chosen = torch.zeros_like(measure).scatter(2, measure.topk(count, dim=2).indices, 1.0)
    mean = v.mean(2, keepdim=True)
    return torch.where(chosen[..., None] > 0, attend_all(scaled(q, k), v), mean)


def largest_logits_alone(q: Tensor, k: Tensor, v: Tensor, sampled: Tensor, count: int) -> Tensor:
    """Queries chosen by their largest logit, without the mean."""
    largest = dots(q, k).masked_fill(~sampled, -math.inf).amax(-1)
    chosen = torch.zeros_like(largest).scatter(2, largest.topk(count, dim=2).indices, 1.0)
    mean = v.mean(2, keepdim=True)
    return torch.where(chosen[..., None] > 0, attend_all(scaled(q, k), v), mean)


def joint_quadratic(
    q: Tensor, k: Tensor, v: Tensor, far_q: Tensor, far_k: Tensor, u: Tensor
) -> Tensor:
    n = k.shape[2]

    def read(x: Tensor) -> Tensor:
        spans = [slice(s, s + 256) for s in range(0, n, 256)]
        near = [(dots(q[:, :, s], k[:, :, s]) / 256).relu().square() @ x[:, :, s] for s in spans]
        return torch.cat(near, 2) + far_q @ (far_k.mT @ x) / n

    return read(u) * v * torch.sigmoid(read(v) * u)


def affinity_kernel(
    q: Tensor,
    v: Tensor,
    region: Tensor,
    to_place: Tensor,
    bias: Tensor,
    place: Tensor,
    gy: int,
    gx: int,
) -> Tensor:
    logits = dots(q, region) @ to_place.mT + bias + place[:, None]
    out = []
    for i in range(gy * gx):
        top = min(max(i // gx - 2, 0), gy - 5)
        left = min(max(i % gx - 2, 0), gx - 5)
        keys = [y * gx + x for y in range(top, top + 5) for x in range(left, left + 5)]
        weights = torch.softmax(logits[:, :, i], -1)
        out.append(torch.einsum("bhp,bhpe->bhe", weights, v[:, :, keys]))
    return torch.stack(out, 2)


def _sampled(r: Draw) -> Tensor:
    some = r.flags(0.5, r.b, r.h, r.m, r.n)
    some[..., 0] = True
    return some


CASES = {
    "bidirectional_reading": Case(
        bidirectional_reading,
        lambda r: {"own_v": r.normal(r.b, r.h, r.m, r.e)},
        m=4,
        n=14,
        returned=("output", "written"),
    ),
    "reversed_attention": Case(
        reversed_attention,
        lambda r: {
            "head_logit": r.normal(r.b, r.h, r.n),
            "message": r.uniform(0, 1, r.b, r.n),
        },
    ),
    "sink_calibration": Case(
        sink_calibration,
        lambda r: {
            "chosen": torch.tensor([True, False, True, True]),
            "alpha": 1.2,
            "beta": 0.4,
        },
    ),
    "dual_softmax": Case(
        dual_softmax,
        lambda r: {"heat": r.uniform(0.5, 1.5)},
        operands="qk",
        n=14,
        returned=("match",),
    ),
    "flow": Case(flow, m=9, n=14),
    "span_summaries": Case(span_summaries, b=1, m=150, n=150),
    "region_routing": Case(
        region_routing,
        lambda r: {"taps": r.normal(r.h, 5, 5, r.e)},
        b=1,
        kv_heads=1,
        grid={"GY": 14, "GX": 7},
    ),
    "sparse_queries": Case(sparse_queries, lambda r: {"sampled": _sampled(r), "count": 4}, n=14),
    "joint_quadratic": Case(
        joint_quadratic,
        lambda r: {
            "far_q": r.normal(r.b, r.h, r.m, r.d),
            "far_k": r.normal(r.b, 2, r.n, r.d),
            "u": r.normal(r.b, 2, r.n, r.e),
        },
        keys=("far_k", "u"),
        b=1,
        m=270,
        n=270,
    ),
    "affinity_kernel": Case(
        affinity_kernel,
        lambda r: {
            "region": r.normal(r.b, r.h, 3, r.d),
            "to_place": r.normal(25, 3),
            "bias": r.normal(25),
            "place": r.normal(r.h, 25),
        },
        operands="qv",
        grid={"GY": 6, "GX": 7},
    ),
}
