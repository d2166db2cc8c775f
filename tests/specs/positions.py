"""Formulas of the specs whose mask knows positions alone, by slices and lists of keys."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from tests.specs.case import Case, attend, fold, scaled
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True)


def anti_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return causal(q.flip(2), k.flip(2), v.flip(2)).flip(2)


def off_diagonal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n = k.shape[2]
    return attend(scaled(q, k), v, lambda b, h, i: [*range(i), *range(i + 1, n)])


def in_context(q: Tensor, k: Tensor, v: Tensor, train: int) -> Tensor:
    return scaled_dot_product_attention(q, k[:, :, :train], v[:, :, :train])


def per_group(
    q: Tensor, k: Tensor, v: Tensor, groups: Tensor, inside: Callable[..., Tensor] = full
) -> Tensor:
    """Attention among the tokens of equal number, one group [b, n] after the other."""
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for b in range(q.shape[0]):
        for group in set(groups[b].tolist()):
            at = (groups[b] == group).nonzero()[:, 0]
            part = inside(q[b : b + 1, :, at], k[b : b + 1, :, at], v[b : b + 1, :, at])
            out[b, :, at] = part[0]
    return out


def sliding_window(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    return attend(scaled(q, k), v, lambda b, h, i: range(max(0, i - window + 1), i + 1))


def local(q: Tensor, k: Tensor, v: Tensor, reach: int) -> Tensor:
    n = k.shape[2]
    return attend(scaled(q, k), v, lambda b, h, i: range(max(0, i - reach), min(n, i + reach + 1)))


def streaming(q: Tensor, k: Tensor, v: Tensor, window: int, persistent: int) -> Tensor:
    def keys(b: int, h: int, i: int) -> set[int]:
        return set(range(min(persistent, i + 1))) | set(range(max(0, i - window + 1), i + 1))

    return attend(scaled(q, k), v, keys)


def memory_as_context(q: Tensor, k: Tensor, v: Tensor, persistent: int, length: int) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        memory = list(range(persistent))
        if i < persistent:
            return memory
        first = persistent + (i - persistent) // length * length
        return memory + list(range(first, i + 1))

    return attend(scaled(q, k), v, keys)


def chunks_of(q: Tensor, length: int) -> Tensor:
    return torch.arange(q.shape[2]).div(length, rounding_mode="floor").expand(q.shape[0], -1)


def chunked(q: Tensor, k: Tensor, v: Tensor, length: int) -> Tensor:
    return per_group(q, k, v, chunks_of(q, length))


def chunked_causal(q: Tensor, k: Tensor, v: Tensor, length: int) -> Tensor:
    return per_group(q, k, v, chunks_of(q, length), causal)


def block_causal(q: Tensor, k: Tensor, v: Tensor, length: int) -> Tensor:
    n = k.shape[2]
    return attend(scaled(q, k), v, lambda b, h, i: range(min(n, (i // length + 1) * length)))


def block_halo(q: Tensor, k: Tensor, v: Tensor, width: int, overlap: int, length: Tensor) -> Tensor:
    # Chunk c reads [c w - o, (c + 1) w + o) and keeps the rows of its centre.
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for b in range(q.shape[0]):
        for start in range(0, q.shape[2], width):
            low = max(0, start - overlap)
            high = min(int(length[b]), start + width + overlap)
            if low < high:
                rows = slice(start, start + width)
                out[b, :, rows] = scaled_dot_product_attention(
                    q[b, :, rows], k[b, :, low:high], v[b, :, low:high]
                )
    return out


def arrow(q: Tensor, k: Tensor, v: Tensor, reach: int) -> Tensor:
    n = k.shape[2]
    score = scaled(q, k)
    first = score[:, :, :1] * math.log(n) / math.log(512)
    score = torch.cat([first, score[:, :, 1:]], dim=2)

    def keys(b: int, h: int, i: int) -> set[int]:
        near = range(max(0, i - reach), min(n, i + reach + 1))
        return set(range(n)) if i == 0 else {0, *near}

    return attend(score, v, keys)


def dilated_window(q: Tensor, k: Tensor, v: Tensor, taps: int, dilation: int) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        return [i - tap * dilation for tap in range(taps) if i - tap * dilation >= 0]

    return attend(scaled(q, k), v, keys)


def strided(q: Tensor, k: Tensor, v: Tensor, stride: int) -> Tensor:
    def keys(b: int, h: int, i: int) -> set[int]:
        return set(range(max(0, i - stride + 1), i + 1)) | set(range(i, -1, -stride))

    return attend(scaled(q, k), v, keys)


def fixed_sparse(q: Tensor, k: Tensor, v: Tensor, length: int, summary: int) -> Tensor:
    def keys(b: int, h: int, i: int) -> set[int]:
        own = set(range(i // length * length, i + 1))
        for block in range(i // length):
            own |= set(range((block + 1) * length - summary, (block + 1) * length))
        return own

    return attend(scaled(q, k), v, keys)


def long_short(q: Tensor, k: Tensor, v: Tensor, short: int, window: int) -> Tensor:
    near = sliding_window(q[:, :short], k[:, :short], v[:, :short], window)
    far = causal(q[:, short:], k[:, short:], v[:, short:])
    return torch.cat([near, far], dim=1)


def moa(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor, sinks: int) -> Tensor:
    n = k.shape[2]
    span = (alpha + (beta.detach() * n).floor()).int().tolist()

    def keys(b: int, h: int, i: int) -> set[int]:
        return set(range(min(sinks, i + 1))) | set(range(max(0, i - span[h] + 1), i + 1))

    return attend(scaled(q, k), v, keys)


def s2(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    block, near, stride, dense = 64, 4, 8, 1
    heads = q.shape[1]
    step = max(1, stride // heads)

    def keys(b: int, h: int, i: int) -> list[int]:
        own = i // block
        if h >= heads - dense:
            kept = set(range(own + 1))
        else:
            local = set(range(max(0, own - near + 1), own + 1))
            kept = local | {c for c in range(own + 1) if (c + h * step) % stride == 0}
        return [j for c in sorted(kept) for j in range(c * block, min((c + 1) * block, i + 1))]

    return attend(scaled(q, k), v, keys)


def shifted_groups(
    q: Tensor, k: Tensor, v: Tensor, shifted: Tensor, length: int, sinks: int
) -> Tensor:
    n = k.shape[2]
    order = torch.arange(n)

    def keys(b: int, h: int, i: int) -> list[int]:
        # Roll the sequence by half a group where the head is shifted, then cut it.
        rolled = order.roll(-(length // 2)) if shifted[h] else order
        cut = [set(rolled[at : at + length].tolist()) for at in range(0, n, length)]
        mine = next(part for part in cut if i in part)
        seen = set(range(n)) if i < sinks else mine | set(range(sinks))
        return [j for j in sorted(seen) if j <= i]

    return attend(scaled(q, k), v, keys)


def radial(q: Tensor, k: Tensor, v: Tensor, width: float, gf: int, gp: int) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        kept = []
        for j in range(gf * gp):
            apart, offset = abs(i // gp - j // gp), abs(i % gp - j % gp)
            scale = 2 ** int(math.log2(max(apart, 1)))
            if scale <= width:
                keep = offset + 1 <= width / scale
            else:
                keep = apart % math.ceil(scale / width) == 0 and offset == 0
            if keep or j < gp:
                kept.append(j)
        return kept

    return attend(scaled(q, k), v, keys)


def pose_within(q: Tensor, k: Tensor, v: Tensor, types: int) -> Tensor:
    def persons(x: Tensor) -> Tensor:
        return fold(x, 2, -1, types)

    return scaled_dot_product_attention(persons(q), persons(k), persons(v)).flatten(2, 3)


def pose_across(q: Tensor, k: Tensor, v: Tensor, types: int) -> Tensor:
    def persons(x: Tensor) -> Tensor:
        return fold(x, 2, -1, types).transpose(2, 3)

    return (
        scaled_dot_product_attention(persons(q), persons(k), persons(v))
        .transpose(2, 3)
        .flatten(2, 3)
    )


def feature_groups(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    width = k.shape[2] // 4

    def keys(b: int, h: int, i: int) -> range:
        group = i // width
        return range(group * width, (group + 1) * width) if group < 4 else range(0)

    return attend(scaled(q, k), v, keys)


def previous_frames(q: Tensor, k: Tensor, v: Tensor, gf: int, gp: int) -> Tensor:
    out = []
    for frame in range(gf):
        read = [0] if frame < 2 else [0, frame - 1]
        keys = [f * gp + p for f in read for p in range(gp)]
        rows = slice(frame * gp, (frame + 1) * gp)
        out.append(scaled_dot_product_attention(q[:, :, rows], k[:, :, keys], v[:, :, keys]))
    return torch.cat(out, dim=2)


CASES = {
    "full": Case(full, m=7, n=12),
    "causal": Case(causal),
    "cross": Case(full, m=1, n=13),
    "anti_causal": Case(anti_causal),
    "off_diagonal": Case(off_diagonal),
    "in_context": Case(in_context, lambda r: {"train": 6}),
    "sliding_window": Case(sliding_window, lambda r: {"window": 4}),
    "local": Case(local, lambda r: {"reach": 2}),
    "streaming": Case(streaming, lambda r: {"window": 3, "persistent": 2}),
    "memory_as_context": Case(memory_as_context, lambda r: {"persistent": 3, "length": 4}, n=14),
    "chunked": Case(chunked, lambda r: {"length": 4}),
    "chunked_causal": Case(chunked_causal, lambda r: {"length": 4}),
    "block_causal": Case(block_causal, lambda r: {"length": 4}),
    "block_halo": Case(
        block_halo, lambda r: {"width": 4, "overlap": 2, "length": torch.tensor([11, 5])}
    ),
    "arrow": Case(arrow, lambda r: {"reach": 2}),
    "dilated_window": Case(dilated_window, lambda r: {"taps": 3, "dilation": 3}),
    "strided": Case(strided, lambda r: {"stride": 3}),
    "fixed_sparse": Case(fixed_sparse, lambda r: {"length": 4, "summary": 1}),
    "long_short": Case(long_short, lambda r: {"short": 1, "window": 3}),
    "moa": Case(
        moa,
        lambda r: {
            "alpha": torch.tensor([1, 2, 1, 3]),
            "beta": torch.tensor([0.0, 0.25, 0.5, 0.0], dtype=torch.float64),
            "sinks": 2,
        },
    ),
    "s2": Case(s2, b=1, m=650, n=650),
    "shifted_groups": Case(
        shifted_groups,
        lambda r: {"shifted": torch.tensor([False, True, False, True]), "length": 4, "sinks": 5},
        m=15,
        n=15,
    ),
    "radial": Case(radial, lambda r: {"width": 4.0}, b=1, grid={"GF": 13, "GP": 6}),
    "pose_within": Case(pose_within, lambda r: {"types": 4}, m=12, n=12),
    "pose_across": Case(pose_across, lambda r: {"types": 4}, m=12, n=12),
    "feature_groups": Case(feature_groups, m=13, n=13),
    "previous_frames": Case(previous_frames, grid={"GF": 4, "GP": 3}),
}
