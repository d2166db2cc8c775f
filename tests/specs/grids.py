"""Formulas of the specs on grids, by partition where the paper partitions."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from tests.specs.case import Case, Draw, attend, attend_all, dots, each_pair, fold, scaled
from torch import Tensor
from torch.nn.functional import normalize, scaled_dot_product_attention


def plain(operands: Iterable[Tensor]) -> Tensor:
    """Softmax attention of queries, keys and values."""
    q, k, v = operands
    return scaled_dot_product_attention(q, k, v)


def window(q: Tensor, k: Tensor, v: Tensor, side: int, gy: int, gx: int) -> Tensor:
    out = torch.zeros(*q.shape[:2], gy, gx, v.shape[-1], dtype=q.dtype)
    images = [fold(x, 2, gy, gx) for x in (q, k, v)]
    for y in range(0, gy, side):
        for x in range(0, gx, side):
            at = (..., slice(y, y + side), slice(x, x + side), slice(None))
            part = plain(z[at].flatten(2, 3) for z in images)
            out[at] = fold(part, 2, *out[at].shape[2:4])
    return out.flatten(2, 3)


def rolled_windows(score: Tensor, bias: Tensor, shift: int, gy: int, gx: int) -> Tensor:
    """Probabilities of shifted windows of 7 by 7: roll the grid, cut it, keep regions apart.

    `bias` [h, 13, 13] is indexed by the query's place in the window minus the key's.
    """
    side = 7
    order = torch.arange(gy * gx).view(gy, gx).roll((-shift, -shift), (0, 1))
    # The last strip of the rolled grid holds rows from both ends of the image.
    strip_y = torch.zeros(gy, dtype=torch.long)
    strip_x = torch.zeros(gx, dtype=torch.long)
    if shift:
        strip_y[-shift:], strip_x[-shift:] = 1, 1
    region = strip_y[:, None] * 2 + strip_x
    weights = torch.zeros_like(score)
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    offset = place[:, None] - place + side - 1
    for y in range(0, gy, side):
        for x in range(0, gx, side):
            tokens = order[y : y + side, x : x + side].flatten()
            label = region[y : y + side, x : x + side].flatten()
            logits = score[:, :, tokens[:, None], tokens] + bias[:, offset[..., 0], offset[..., 1]]
            logits = logits.masked_fill(label[:, None] != label, -math.inf)
            weights[:, :, tokens[:, None], tokens] = torch.softmax(logits, -1)
    return weights


def swin(q: Tensor, k: Tensor, v: Tensor, table: Tensor, shift: int, gy: int, gx: int) -> Tensor:
    return rolled_windows(scaled(q, k), table, shift, gy, gx) @ v


def swin_v2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_scale: Tensor,
    table: Tensor,
    shift: int,
    gy: int,
    gx: int,
) -> Tensor:
    cosine = dots(normalize(q, dim=-1), normalize(k, dim=-1))
    score = cosine * log_scale.clamp(max=math.log(100)).exp()[:, None, None]
    return rolled_windows(score, 16 * torch.sigmoid(table), shift, gy, gx) @ v


def maxvit_block(q: Tensor, k: Tensor, v: Tensor, table: Tensor, gy: int, gx: int) -> Tensor:
    side = 7
    bias = torch.empty(q.shape[1], side, side, side, side, dtype=q.dtype)
    for ry, rx, cy, cx in torch.cartesian_prod(*[torch.arange(side)] * 4).tolist():
        bias[:, ry, rx, cy, cx] = table[:, cy - ry + side - 1, cx - rx + side - 1]
    bias = bias.flatten(3, 4).flatten(1, 2)

    def cut(x: Tensor) -> Tensor:
        x = fold(x, 2, gy // side, side, gx // side, side)
        return x.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(0, 2)

    out = scaled_dot_product_attention(cut(q), cut(k), cut(v), attn_mask=bias)
    out = fold(fold(out, 2, side, side), 0, -1, gy // side, gx // side)
    return out.permute(0, 3, 1, 4, 2, 5, 6).flatten(2, 5)


def maxvit_grid(q: Tensor, k: Tensor, v: Tensor, table: Tensor, gy: int, gx: int) -> Tensor:
    # Exchanging the cell and the place in it turns grid attention into block attention.
    def swap(x: Tensor, rows: int, columns: int) -> Tensor:
        x = fold(x, 2, rows, gy // rows, columns, gx // columns)
        return x.permute(0, 1, 3, 2, 5, 4, 6).flatten(2, 5)

    q, k, v = (swap(x, 7, 7) for x in (q, k, v))
    return swap(maxvit_block(q, k, v, table, gy, gx), gy // 7, gx // 7)


def absolute_offsets(q: Tensor, k: Tensor, v: Tensor, table: Tensor, gy: int, gx: int) -> Tensor:
    dy = each_pair(gy * gx, gy * gx, lambda i, j: abs(i // gx - j // gx)).long()
    dx = each_pair(gy * gx, gy * gx, lambda i, j: abs(i % gx - j % gx)).long()
    return attend_all(scaled(q, k) + table[:, dy, dx], v)


def axial_row(q: Tensor, k: Tensor, v: Tensor, gy: int, gx: int) -> Tensor:
    rows = [fold(x, 2, gy, gx) for x in (q, k, v)]
    return plain(rows).flatten(2, 3)


def axial_column(q: Tensor, k: Tensor, v: Tensor, gy: int, gx: int) -> Tensor:
    columns = [fold(x, 2, gy, gx).transpose(2, 3) for x in (q, k, v)]
    return plain(columns).transpose(2, 3).flatten(2, 3)


def axial_row_causal(q: Tensor, k: Tensor, v: Tensor, gy: int, gx: int) -> Tensor:
    rows = [fold(x, 2, gy, gx) for x in (q, k, v)]
    return scaled_dot_product_attention(rows[0], rows[1], rows[2], is_causal=True).flatten(2, 3)


def criss_cross(q: Tensor, k: Tensor, v: Tensor, high: int, wide: int, gy: int, gx: int) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        rows = range(i // gx // high * high, i // gx // high * high + high)
        columns = range(i % gx // wide * wide, i % gx // wide * wide + wide)
        return [y * gx + x for y in range(gy) for x in range(gx) if y in rows or x in columns]

    return attend(scaled(q, k), v, keys)


def surrounding_blocks(
    q: Tensor, k: Tensor, v: Tensor, high: int, wide: int, around: int, gy: int, gx: int
) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        top, left = (i // gx // high - around) * high, (i % gx // wide - around) * wide
        rows = range(max(0, top), min(gy, top + (2 * around + 1) * high))
        columns = range(max(0, left), min(gx, left + (2 * around + 1) * wide))
        return [y * gx + x for y in rows for x in columns]

    return attend(scaled(q, k), v, keys)


def moore(q: Tensor, k: Tensor, v: Tensor, reach: int, gy: int, gx: int) -> Tensor:
    steps = range(-reach, reach + 1)

    def keys(b: int, h: int, i: int) -> list[int]:
        places = [(i // gx + dy, i % gx + dx) for dy in steps for dx in steps]
        return [y * gx + x for y, x in places if 0 <= y < gy and 0 <= x < gx]

    return attend(scaled(q, k), v, keys)


def residue_classes(q: Tensor, k: Tensor, v: Tensor, stride: int, gy: int, gx: int) -> Tensor:
    out = torch.zeros(*q.shape[:2], gy, gx, v.shape[-1], dtype=q.dtype)
    images = [fold(x, 2, gy, gx) for x in (q, k, v)]
    for y in range(stride):
        for x in range(stride):
            at = (..., slice(y, None, stride), slice(x, None, stride), slice(None))
            part = plain(z[at].flatten(2, 3) for z in images)
            out[at] = fold(part, 2, *out[at].shape[2:4])
    return out.flatten(2, 3)


def neighbours(p: int, length: int, side: int, gap: int = 1) -> list[int]:
    """The `side` places of p's remainder around p, the window moved inward at the border."""
    class_ = list(range(p % gap, length, gap))
    start = min(max(class_.index(p) - side // 2, 0), len(class_) - side)
    return class_[start : start + side]


def natten_dilated(
    q: Tensor, k: Tensor, v: Tensor, side: int, gap_y: int, gap_x: int, gy: int, gx: int
) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        rows = neighbours(i // gx, gy, side, gap_y)
        return [y * gx + x for y in rows for x in neighbours(i % gx, gx, side, gap_x)]

    return attend(scaled(q, k), v, keys)


def natten(q: Tensor, k: Tensor, v: Tensor, side: int, gy: int, gx: int) -> Tensor:
    return natten_dilated(q, k, v, side, 1, 1, gy, gx)


def natten_causal(
    q: Tensor, k: Tensor, v: Tensor, frames: int, side: int, gf: int, gy: int, gx: int
) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        f, y, x = i // (gy * gx), i // gx % gy, i % gx
        return [
            (s * gy + r) * gx + c
            for s in range(max(0, f - frames + 1), f + 1)
            for r in neighbours(y, gy, side)
            for c in neighbours(x, gx, side)
        ]

    return attend(scaled(q, k), v, keys)


def strided_neighbours(p: int, length: int, side: int, stride: int, gap: int) -> list[int]:
    """The window of the query in the middle of p's stride, never leaving the grid."""
    class_ = list(range(p % gap, length, gap))
    group = class_.index(p) // stride * stride
    leader = min(group + stride // 2, len(class_) - 1)
    start = min(max(leader - side // 2, 0), len(class_) - side)
    return class_[start : start + side]


def gna(
    q: Tensor, k: Tensor, v: Tensor, side: int, stride: int, gap: int, gy: int, gx: int
) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        rows = strided_neighbours(i // gx, gy, side, stride, gap)
        columns = strided_neighbours(i % gx, gx, side, stride, gap)
        return [y * gx + x for y in rows for x in columns]

    return attend(scaled(q, k), v, keys)


def bilateral(
    q: Tensor, k: Tensor, v: Tensor, reach: int, heat: Tensor, sigma: Tensor, gy: int, gx: int
) -> Tensor:
    # The softmax of the guidance, times a Gaussian of the distance, normalised again.
    def rule(i: int, j: int) -> float:
        return (i // gx - j // gx) ** 2 + (i % gx - j % gx) ** 2

    def near(i: int, j: int) -> float:
        return abs(i // gx - j // gx) <= reach and abs(i % gx - j % gx) <= reach

    n = gy * gx
    spatial = torch.exp(-each_pair(n, n, rule) / (2 * sigma**2)) * each_pair(n, n, near)
    weights = torch.softmax(heat * dots(q, k), -1) * spatial
    return weights / weights.sum(-1, keepdim=True) @ v


def zero_padded_window(q: Tensor, k: Tensor, v: Tensor, gy: int, gx: int) -> Tensor:
    reach, size = 1, 3

    def unfold(x: Tensor) -> Tensor:
        image = fold(x, 2, gy, gx).movedim(-1, 2)
        padded = torch.nn.functional.pad(image, [reach] * 4)
        return padded.unfold(3, size, 1).unfold(4, size, 1).flatten(5, 6).flatten(3, 4)

    score = torch.einsum("bhid,bhdiu->bhiu", q, unfold(k)) / math.sqrt(q.shape[-1])
    return torch.einsum("bhiu,bheiu->bhie", torch.softmax(score, -1), unfold(v))


def decomposed_bias(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, gy: int, gx: int
) -> Tensor:
    side = 14

    def table(x: Tensor, place: Tensor) -> Tensor:
        return x[place[:, None] - place + side - 1]

    def keys(b: int, h: int, i: int) -> list[int]:
        cell = (i // gx // side, i % gx // side)
        return [j for j in range(gy * gx) if (j // gx // side, j % gx // side) == cell]

    token = torch.arange(gy * gx)
    bias_y = torch.einsum("bhid,ijd->bhij", q, table(rows, token // gx % side))
    bias_x = torch.einsum("bhid,ijd->bhij", q, table(columns, token % gx % side))
    return attend(scaled(q, k) + bias_y + bias_x, v, keys)


def positional_mixture(
    q: Tensor, k: Tensor, v: Tensor, place: Tensor, gate_logit: Tensor, gy: int, gx: int
) -> Tensor:
    n = gy * gx
    dx = each_pair(n, n, lambda i, j: j % gx - i % gx)
    dy = each_pair(n, n, lambda i, j: j // gx - i // gx)
    features = torch.stack([dx, dy, dx.square() + dy.square()], -1)
    by_place = torch.softmax(torch.einsum("hc,ijc->hij", place, features), -1)
    gate = torch.sigmoid(gate_logit)[:, None, None]
    return ((1 - gate) * torch.softmax(scaled(q, k), -1) + gate * by_place) @ v


def _swin(r: Draw) -> dict[str, Tensor | int | float]:
    return {"table": r.normal(r.h, 13, 13), "shift": 3}


def patch_pooling(
    q: Tensor, k: Tensor, v: Tensor, kernel: Tensor, gy_i: int, gx_i: int, gy_j: int, gx_j: int
) -> Tensor:
    side = 4

    def patches(x: Tensor) -> Tensor:
        x = fold(x, 2, gy_i, side, gx_i, side)
        return x.transpose(3, 4).flatten(4, 5).flatten(2, 3)

    score = torch.einsum("bhid,bhiud->bhiu", q, patches(k)) * kernel.flatten()
    return torch.einsum("bhiu,bhiue->bhie", torch.softmax(score, -1), patches(v))


CASES = {
    "window": Case(window, lambda r: {"side": 3}, grid={"GY": 7, "GX": 6}),
    "swin": Case(swin, _swin, b=1, grid={"GY": 14, "GX": 14}),
    "swin_v2": Case(
        swin_v2,
        lambda r: {**_swin(r), "log_scale": torch.tensor([0.2, 2.0, 5.0, 1.0]).double()},
        b=1,
        grid={"GY": 14, "GX": 7},
    ),
    "maxvit_block": Case(
        maxvit_block, lambda r: {"table": r.normal(r.h, 13, 13)}, b=1, grid={"GY": 14, "GX": 14}
    ),
    "maxvit_grid": Case(
        maxvit_grid, lambda r: {"table": r.normal(r.h, 13, 13)}, b=1, grid={"GY": 14, "GX": 14}
    ),
    "absolute_offsets": Case(
        absolute_offsets, lambda r: {"table": r.normal(r.h, 14, 14)}, grid={"GY": 4, "GX": 5}
    ),
    "axial_row": Case(axial_row, grid={"GY": 4, "GX": 5}),
    "axial_column": Case(axial_column, grid={"GY": 4, "GX": 5}),
    "axial_row_causal": Case(axial_row_causal, grid={"GY": 4, "GX": 5}),
    "criss_cross": Case(criss_cross, lambda r: {"high": 2, "wide": 3}, grid={"GY": 7, "GX": 8}),
    "surrounding_blocks": Case(
        surrounding_blocks, lambda r: {"high": 2, "wide": 3, "around": 1}, grid={"GY": 9, "GX": 10}
    ),
    "moore": Case(moore, lambda r: {"reach": 1}, grid={"GY": 5, "GX": 6}),
    "residue_classes": Case(residue_classes, lambda r: {"stride": 3}, grid={"GY": 7, "GX": 8}),
    "natten": Case(natten, lambda r: {"side": 5}, grid={"GY": 7, "GX": 8}),
    "natten_dilated": Case(
        natten_dilated,
        lambda r: {"side": 5, "gap_y": 2, "gap_x": 3},
        b=1,
        grid={"GY": 11, "GX": 17},
    ),
    "natten_causal": Case(
        natten_causal, lambda r: {"frames": 2, "side": 5}, b=1, grid={"GF": 4, "GY": 6, "GX": 7}
    ),
    "gna": Case(gna, lambda r: {"side": 7, "stride": 5, "gap": 2}, b=1, grid={"GY": 21, "GX": 15}),
    "bilateral": Case(
        bilateral,
        lambda r: {"reach": 2, "heat": r.uniform(0.5, 1.5), "sigma": r.uniform(0.5, 2)},
        grid={"GY": 5, "GX": 6},
    ),
    "zero_padded_window": Case(zero_padded_window, grid={"GY": 4, "GX": 5}),
    "decomposed_bias": Case(
        decomposed_bias,
        lambda r: {"rows": r.normal(27, r.d), "columns": r.normal(27, r.d)},
        b=1,
        grid={"GY": 15, "GX": 16},
    ),
    "positional_mixture": Case(
        positional_mixture,
        lambda r: {"place": r.normal(r.h, 3) / 4, "gate_logit": r.normal(r.h)},
        grid={"GY": 4, "GX": 5},
    ),
    "patch_pooling": Case(
        patch_pooling,
        lambda r: {"kernel": r.normal(4, 4)},
        grid={"GY_i": 2, "GX_i": 3, "GY_j": 8, "GX_j": 12},
    ),
}
