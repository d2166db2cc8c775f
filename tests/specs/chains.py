"""Formulas of the specs that go through a second set of tokens, through features, or channels."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, Draw, attend_all, dots, fold, joined, scaled, weights_over
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, interpolate, normalize, relu


def images(x: Tensor, gy: int, gx: int) -> Tensor:
    """[b, h, tokens, c] as images [b h, c, gy, gx]."""
    return fold(x.transpose(2, 3), 3, gy, gx).flatten(0, 1)


def agent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inward: Tensor,
    inward_row: Tensor,
    inward_column: Tensor,
    outward: Tensor,
    outward_row: Tensor,
    outward_column: Tensor,
    taps: Tensor,
    gy: int,
    gx: int,
) -> Tensor:
    b, heads, n, e = v.shape

    def bias(small: Tensor, row: Tensor, column: Tensor) -> Tensor:
        large = interpolate(small, (gy, gx), mode="bilinear")
        return (large + row[:, :, :gy, None] + column[:, :, None, :gx]).flatten(2)

    pooled = adaptive_avg_pool2d(images(q, gy, gx), 7).unflatten(0, (b, heads))
    agents = pooled.flatten(3).transpose(2, 3)
    read = attend_all(scaled(agents, k) + bias(inward, inward_row, inward_column), v)
    out = attend_all(scaled(q, agents) + bias(outward, outward_row, outward_column).mT, read)
    kernel = taps.movedim(-1, 1).flatten(0, 1)[:, None]
    channels = images(v, gy, gx).unflatten(0, (b, heads)).flatten(1, 2)
    near = conv2d(channels, kernel, padding=1, groups=heads * e)
    return out + near.view(b, heads, e, n).transpose(2, 3)


def inducing_points(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    points: Tensor,
    point_map: Tensor,
    point_bias: Tensor,
    key_map: Tensor,
    value_map: Tensor,
    out_map: Tensor,
    out_bias: Tensor,
) -> Tensor:
    heads, width = q.shape[1], q.shape[3]

    def mixed(x: Tensor, matrix: Tensor) -> Tensor:
        flat = x.transpose(1, 2).flatten(2) @ matrix.flatten(0, 1).flatten(1).mT
        return fold(flat, 2, heads, width).transpose(1, 2)

    def block(x: Tensor, keys: Tensor, values: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        read = x + attend_all(dots(x, keys) / math.sqrt(heads * width), values)
        return read + relu(mixed(read, matrix) + bias[:, None])

    some = block(points.expand(q.shape[0], -1, -1, -1), k, v, point_map, point_bias)
    return block(q, mixed(some, key_map), mixed(some, value_map), out_map, out_bias)


def channel_attention(q: Tensor, k: Tensor, v: Tensor, heat: Tensor) -> Tensor:
    score = normalize(q.mT, dim=-1) @ normalize(k.mT, dim=-1).mT * heat[:, None, None]
    return (torch.softmax(score, -1) @ v.mT).mT


def channel_groups(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mixing = torch.softmax((k * q.shape[3] ** -0.5).mT @ v, dim=-1)
    return (mixing @ q.mT).mT


def channel_roles_of_the_paper(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A map from queries and keys that mixes the values: the code's roles are others."""
    return channel_groups(v, q, k)


def tokens_unnormalised(q: Tensor, k: Tensor, v: Tensor, heat: Tensor) -> Tensor:
    """Unit vectors along the channels of a token, where a channel's tokens are meant."""
    q, k = normalize(q, dim=-1), normalize(k, dim=-1)
    score = q.mT @ k * heat[:, None, None]
    return (torch.softmax(score, -1) @ v.mT).mT


def random_features(q: Tensor, k: Tensor, v: Tensor, frequency: Tensor, small: float) -> Tensor:
    count, width = frequency.shape[1:]
    q, k = q * width**-0.25, k * width**-0.25

    def exponent(x: Tensor) -> Tensor:
        return x @ frequency.mT - x.square().sum(-1, keepdim=True) / 2

    from_q, from_k = exponent(q), exponent(k)
    from_q = from_q - from_q.detach().amax(-1, keepdim=True)
    from_k = from_k - from_k.detach().amax((-2, -1), keepdim=True)
    fq, fk = ((x.exp() + small) / math.sqrt(count) for x in (from_q, from_k))
    total = (fq @ fk.sum(2)[..., None]).clamp(min=0.1)
    return fq @ (fk.mT @ v) / total


def randomized_proposals(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = (x * q.shape[3] ** -0.25 for x in (q, k))
    spans = [slice(at, at + 16) for at in range(0, q.shape[2], 16)]
    omega = torch.stack([q[:, :, s].mean(2) + k[:, :, s].mean(2) for s in spans], 2)
    # exp(w q - q^2 / 2) exp(w k - k^2 / 2) times N(w; 0, 1) / N(w; mean, 1), at w = mean.
    log_keys = omega @ k.mT - k.square().sum(-1)[:, :, None] / 2
    log_queries = q @ omega.mT - q.square().sum(-1, keepdim=True) / 2
    integrand = torch.exp(log_queries[..., None] + log_keys[:, :, None])
    ratio = torch.exp(-omega.square().sum(-1) / 2)
    weights = (integrand * ratio[:, :, None, :, None]).sum(3)
    return weights / weights.sum(-1, keepdim=True) @ v


def reposition(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    reference: Tensor,
    reference_v: Tensor,
    source: Tensor,
    inside: Tensor,
) -> Tensor:
    out = []
    for b in range(q.shape[0]):
        at = source[b][inside[b]]
        keys = torch.cat([k[b], reference[b][:, at]], 1)
        values = torch.cat([v[b], reference_v[b][:, at]], 1)
        out.append(torch.softmax(q[b] @ keys.mT / math.sqrt(q.shape[3]), -1) @ values)
    return torch.stack(out)


def partial_merge(
    q: Tensor, k: Tensor, v: Tensor, earlier: Tensor, earlier_lse: Tensor, keep: Tensor
) -> Tensor:
    # One key more with the earlier sum as its logit and, for each query, the earlier output.
    n = k.shape[2]
    score = torch.cat([scaled(q, k), earlier_lse[..., None]], -1)

    def keys(b: int, h: int, i: int) -> list[int]:
        own = [j for j in range(i + 1) if keep[b, j]]
        return own + [n] * bool(earlier_lse[b, h, i] > -math.inf)

    weights = weights_over(score, keys)
    # With no key so far, what came in goes on.
    share = torch.where(weights.sum(-1, keepdim=True) > 0, weights[..., n:], 1.0)
    out = weights[..., :n] @ v + share * earlier
    closed = (torch.arange(n) > torch.arange(n)[:, None]) | ~keep[:, None, None]
    logits = torch.cat([score[..., :n].masked_fill(closed, -math.inf), score[..., n:]], -1)
    some = (logits > -math.inf).any(-1)
    lse = torch.logsumexp(logits.masked_fill(~some[..., None], 0), -1)
    return joined([out, lse.masked_fill(~some, -math.inf)])


def shards_averaged(
    q: Tensor, k: Tensor, v: Tensor, earlier: Tensor, earlier_lse: Tensor, keep: Tensor
) -> Tensor:
    """Both shards count alike, whatever their mass."""
    right = partial_merge(q, k, v, earlier, earlier_lse, keep)
    gone = torch.full_like(earlier_lse, -math.inf)
    own = partial_merge(q, k, v, torch.zeros_like(earlier), gone, keep)
    size = earlier.numel()
    return joined([(own[:size] + earlier.flatten()) / 2, right[size:]])


def _agent(r: Draw) -> dict[str, Tensor | int | float]:
    both = {
        side + kind: r.normal(r.h, 49, *sizes)
        for side in ("inward", "outward")
        for kind, sizes in {"": (7, 7), "_row": (64,), "_column": (64,)}.items()
    }
    return {**both, "taps": r.normal(r.h, 3, 3, r.e)}


def _earlier(r: Draw) -> dict[str, Tensor | int | float]:
    # The second sequence has no key in this shard, and the first query none in the one before.
    lse = 2 * r.normal(r.b, r.h, r.m)
    lse[:, :, 0] = -math.inf
    keep = r.flags(0.7, r.b, r.n) & torch.tensor([[True], [False]])
    keep[0, 0] = True
    first = torch.arange(r.m)[:, None] > 0
    return {
        "earlier": r.normal(r.b, r.h, r.m, r.e) * first,
        "earlier_lse": lse,
        "keep": keep,
    }


CASES = {
    "agent": Case(agent, _agent, b=1, grid={"GY": 14, "GX": 7}),
    "inducing_points": Case(
        inducing_points,
        lambda r: {
            "points": r.normal(r.h, 16, r.e),
            **{
                name: r.normal(r.h, r.e, r.h, r.e) / 4
                for name in ("point_map", "key_map", "value_map", "out_map")
            },
            "point_bias": r.normal(r.h, r.e),
            "out_bias": r.normal(r.h, r.e),
        },
        d=5,
    ),
    "channel_attention": Case(
        channel_attention,
        lambda r: {"v": r.normal(r.b, 2, r.n, r.d), "heat": r.uniform(1, 5, r.h)},
        operands="qk",
    ),
    "channel_groups": Case(
        channel_groups, lambda r: {"v": r.normal(r.b, 2, r.n, r.d)}, operands="qk"
    ),
    "random_features": Case(
        random_features, lambda r: {"frequency": r.normal(r.h, 9, r.d), "small": 1e-3}, n=14
    ),
    "randomized_proposals": Case(randomized_proposals, m=40, n=40),
    "reposition": Case(
        reposition,
        lambda r: {
            "reference": r.normal(r.b, r.h, 7, r.d),
            "reference_v": r.normal(r.b, r.h, 7, r.e),
            "source": r.ints(0, 7, r.b, r.n),
            "inside": r.flags(0.6, r.b, r.n),
        },
    ),
    "partial_merge": Case(partial_merge, _earlier, returned=("output", "lse")),
}
