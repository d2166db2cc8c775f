"""Formulas of the specs that join a mask by place with learned vectors or rotations by place."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, attend, attend_all, dots, each_pair, fold, scaled
from tests.specs.scores import rotate
from torch import Tensor
from torch.nn.functional import pad


def log_bucket(relative: int) -> int:
    """Distances to 8 as they are, then 8 more buckets on a logarithmic scale to 511."""
    size, middle = abs(relative), 8
    if size <= middle:
        return relative
    grown = math.log(size / middle) / math.log(511 / middle) * (middle - 1)
    return int(math.copysign(middle + math.ceil(grown - 1e-9), relative))


def disentangled(
    q: Tensor, k: Tensor, to_place: Tensor, from_place: Tensor, bucket_of: dict[int, int]
) -> Tensor:
    """Content with content, content with place, place with content, over the root of 3 D."""
    m, n = q.shape[2], k.shape[2]
    ahead = each_pair(m, n, lambda i, j: min(max(bucket_of[i - j] + 16, 0), 31)).long()
    behind = each_pair(m, n, lambda i, j: min(max(bucket_of[j - i] + 16, 0), 31)).long()
    to = torch.einsum("bhid,hijd->bhij", q, to_place[:, ahead])
    back = torch.einsum("bhjd,hijd->bhij", k, from_place[:, behind])
    return (dots(q, k) + to + back) / math.sqrt(3 * q.shape[-1])


def arrow(score: Tensor, v: Tensor, reach: int, keep: Tensor) -> Tensor:
    """Attention to near tokens, from and to the first one; `keep` [B, N] are no padding."""

    def keys(b: int, h: int, i: int) -> list[int]:
        near = [j for j in range(v.shape[2]) if i == 0 or j == 0 or abs(i - j) <= reach]
        return [j for j in near if keep[b, i] and keep[b, j]]

    return attend(score, v, keys)


def arrow_disentangled(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    reach: int,
    keep: Tensor,
    to_place: Tensor,
    from_place: Tensor,
) -> Tensor:
    n = k.shape[2]
    score = disentangled(q, k, to_place, from_place, {r: log_bucket(r) for r in range(-n, n)})
    return arrow(score, v, reach, keep)


def relative_local(q: Tensor, k: Tensor, v: Tensor, here: Tensor, before: Tensor) -> Tensor:
    length, n = 64, k.shape[2]
    out = []
    for start in range(0, n, length):
        end = min(start + length, n)
        rows = torch.arange(start, end)
        keys = torch.arange(max(0, start - length), end)
        gap = rows[:, None] - keys
        own = torch.einsum("bhid,hijd->bhij", q[:, :, rows], here[:, gap.clamp(0, length - 1)])
        last = torch.einsum("bhid,hijd->bhij", q[:, :, rows], before[:, (gap - 1).clamp(min=0)])
        bias = torch.where(keys >= start, own, last)
        score = (dots(q[:, :, rows], k[:, :, keys]) + bias) / math.sqrt(q.shape[-1])
        score = score.masked_fill(gap < 0, -math.inf)
        out.append(torch.softmax(score, -1) @ v[:, :, keys])
    return torch.cat(out, dim=2)


def halo_score(q: Tensor, k: Tensor, rows: Tensor, columns: Tensor, at: Tensor, gx: int) -> Tensor:
    """Logits of queries that stand at the tokens `at` of the grid of the keys."""
    key = torch.arange(k.shape[2])
    dy = (key // gx - at[:, None] // gx + 10).clamp(0, 20)
    dx = (key % gx - at[:, None] % gx + 10).clamp(0, 20)
    by_row = torch.einsum("bhid,hijd->bhij", q, rows[:, dy])
    by_column = torch.einsum("bhid,hijd->bhij", q, columns[:, dx])
    return (dots(q, k) + by_row + by_column) / math.sqrt(q.shape[-1])


def halo_keys(at: int, gy: int, gx: int) -> list[int]:
    """The block of 8 by 8 that token `at` is in, and 3 pixels around it, inside the image."""
    top, left = at // gx // 8 * 8, at % gx // 8 * 8
    rows = range(max(0, top - 3), min(gy, top + 8 + 3))
    columns = range(max(0, left - 3), min(gx, left + 8 + 3))
    return [y * gx + x for y in rows for x in columns]


def halo(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, gy: int, gx: int
) -> Tensor:
    score = halo_score(q, k, rows, columns, torch.arange(gy * gx), gx)
    return attend(score, v, lambda b, h, i: halo_keys(i, gy, gx))


def halo_downsampled(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    columns: Tensor,
    gy_i: int,
    gx_i: int,
    gy_j: int,
    gx_j: int,
) -> Tensor:
    # Spread the queries over the full grid, attend there, and keep every second row and column.
    full = torch.zeros(*q.shape[:2], gy_j, gx_j, q.shape[3], dtype=q.dtype)
    full[:, :, ::2, ::2] = fold(q, 2, gy_i, gx_i)
    out = halo(full.flatten(2, 3), k, v, rows, columns, gy_j, gx_j)
    return fold(out, 2, gy_j, gx_j)[:, :, ::2, ::2].flatten(2, 3)


def span_plus(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q2: Tensor,
    k2: Tensor,
    v2: Tensor,
    keep: Tensor,
    gs: int,
    go: int,
) -> Tensor:
    place = torch.arange(gs * go)
    offset = (place % go).double()
    start, end = place // go, place // go + place % go

    def among(x: Tensor, y: Tensor, values: Tensor, line: Tensor) -> Tensor:
        def keys(b: int, h: int, i: int) -> list[int]:
            mine = (line == line[i]) & keep[b] & keep[b, i]
            return mine.nonzero()[:, 0].tolist()

        return attend(scaled(rotate(x, offset), rotate(y, offset)), values, keys)

    return torch.cat([among(q, k, v, start), among(q2, k2, v2, end)], -1)


def bidirectional_rope(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # Each pair on its own: the query stands |i - j| after the key.
    m, n = q.shape[2], k.shape[2]
    rows = []
    for i in range(m):
        apart = (i - torch.arange(n)).abs().double()
        turned = rotate(q[:, :, i : i + 1].expand(-1, -1, n, -1), apart)
        rows.append((turned * k).sum(-1) / math.sqrt(q.shape[-1]))
    return attend_all(torch.stack(rows, 2), v)


def halo_with_padding(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, gy: int, gx: int
) -> Tensor:
    """Zeros outside the image take part: their logit is the learned one of their place."""

    def padded(x: Tensor) -> Tensor:
        return pad(fold(x, 2, gy, gx), (0, 0, 3, 8 + 3, 3, 8 + 3)).flatten(2, 3)

    wide, high = gx + 14, gy + 14
    token = torch.arange(gy * gx)
    at = (token // gx + 3) * wide + token % gx + 3

    def keys(b: int, h: int, i: int) -> list[int]:
        top, left = i // gx // 8 * 8, i % gx // 8 * 8
        return [y * wide + x for y in range(top, top + 14) for x in range(left, left + 14)]

    assert high * wide == padded(k).shape[2]
    return attend(halo_score(q, padded(k), rows, columns, at, wide), padded(v), keys)


CASES = {
    "arrow_disentangled": Case(
        arrow_disentangled,
        lambda r: {
            "reach": 14,
            "keep": torch.arange(r.n) < torch.tensor([[31], [r.n]]),
            "to_place": r.normal(r.h, 32, r.d),
            "from_place": r.normal(r.h, 32, r.d),
        },
        m=40,
        n=40,
    ),
    "relative_local": Case(
        relative_local,
        lambda r: {"here": r.normal(r.h, 64, r.d), "before": r.normal(r.h, 127, r.d)},
        b=1,
        m=150,
        n=150,
    ),
    "halo": Case(
        halo,
        lambda r: {"rows": r.normal(r.h, 21, r.d), "columns": r.normal(r.h, 21, r.d)},
        b=1,
        grid={"GY": 17, "GX": 10},
    ),
    "halo_downsampled": Case(
        halo_downsampled,
        lambda r: {"rows": r.normal(r.h, 21, r.d), "columns": r.normal(r.h, 21, r.d)},
        b=1,
        grid={"GY_i": 9, "GX_i": 5, "GY_j": 18, "GX_j": 10},
    ),
    "span_plus": Case(
        span_plus,
        lambda r: {
            "q2": r.normal(r.b, r.h, r.m, r.d),
            "k2": r.normal(r.b, 2, r.n, r.d),
            "v2": r.normal(r.b, 2, r.n, 3),
            "keep": r.flags(0.8, r.b, r.n),
        },
        keys=("k2", "v2"),
        grid={"GS": 6, "GO": 5},
    ),
    "bidirectional_rope": Case(bidirectional_rope),
}
