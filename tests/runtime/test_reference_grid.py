"""The reference against reshapes, partitions and loops over pixels: tokens on a grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from tests.runtime.conftest import random_leaf, same
from torch import Tensor

B, H, GY, GX, D, E = 2, 2, 6, 4, 4, 3
N = GY * GX


def qkv(m: int = N) -> dict[str, Tensor]:
    return {
        "q": random_leaf(B, H, m, D),
        "k": random_leaf(B, H, N, D),
        "v": random_leaf(B, H, N, E),
    }


def softmax(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    return (q @ k.mT / math.sqrt(D) + bias).softmax(-1) @ v


def windows(x: Tensor, height: int, width: int) -> Tensor:
    """[B, H, N, C] cut into windows: [B, H, windows, height * width, C]."""
    x = x.reshape(B, H, GY // height, height, GX // width, width, -1).transpose(3, 4)
    return x.reshape(B, H, -1, height * width, x.shape[-1])


def merge(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `windows`."""
    x = x.reshape(B, H, GY // height, GX // width, height, width, -1).transpose(3, 4)
    return x.reshape(B, H, N, -1)


def test_shifted_windows_with_a_relative_table() -> None:
    y, x = torch.meshgrid(torch.arange(3), torch.arange(2), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y + 2, x[:, None] - x + 1

    def formula(q: Tensor, k: Tensor, v: Tensor, table: Tensor, GY: int, GX: int) -> Tensor:  # noqa: N803
        q, k, v = (windows(z, 3, 2) for z in (q, k, v))
        return merge(softmax(q, k, v, table[:, dy, dx][:, None]), 3, 2)

    same(
        "grid y, x\nparam table[h, 5, 3] = 0\n"
        "mask i.y // 3 == j.y // 3 and i.x // 2 == j.x // 2\n"
        "score = dot(q[i], k[j]) / sqrt(D) + table[i.y - j.y + 2, i.x - j.x + 1]",
        formula,
        **qkv(),
        table=random_leaf(H, 5, 3),
        GY=GY,
        GX=GX,
    )


def test_rows_and_a_grid_of_strides() -> None:
    def rows(q: Tensor, k: Tensor, v: Tensor, GY: int, GX: int) -> Tensor:  # noqa: N803
        return merge(softmax(*(windows(z, 1, GX) for z in (q, k, v))), 1, GX)

    same("grid y, x\nmask i.y == j.y", rows, **qkv(), GY=GY, GX=GX)

    def strided(q: Tensor, k: Tensor, v: Tensor, GY: int, GX: int) -> Tensor:  # noqa: N803
        def far(z: Tensor) -> Tensor:
            z = z.reshape(B, H, 3, GY // 3, 2, GX // 2, -1).permute(0, 1, 3, 5, 2, 4, 6)
            return z.reshape(B, H, -1, 6, z.shape[-1])

        out = softmax(*(far(z) for z in (q, k, v)))
        out = out.reshape(B, H, GY // 3, GX // 2, 3, 2, E).permute(0, 1, 4, 2, 5, 3, 6)
        return out.reshape(B, H, N, E)

    same(
        "grid y, x\nrequire GY % 3 == 0 and GX % 2 == 0\n"
        "mask i.y % (GY // 3) == j.y % (GY // 3) and i.x % (GX // 2) == j.x % (GX // 2)",
        strided,
        **qkv(),
        GY=GY,
        GX=GX,
    )


def test_neighbourhoods_keep_their_size_at_the_border() -> None:
    def loop(q: Tensor, k: Tensor, v: Tensor, GY: int, GX: int) -> Tensor:  # noqa: N803
        out = []
        for y in range(GY):
            for x in range(GX):
                y0, x0 = min(max(y - 1, 0), GY - 3), min(max(x - 1, 0), GX - 3)
                keys = [a * GX + b for a in range(y0, y0 + 3) for b in range(x0, x0 + 3)]
                i = y * GX + x
                out.append(softmax(q[:, :, i : i + 1], k[:, :, keys], v[:, :, keys]))
        return torch.cat(out, 2)

    same(
        "grid y, x\nrequire GY >= 3 and GX >= 3\n"
        "let lo(c, L) = clamp(c - 1, 0, L - 3)\n"
        "mask lo(i.y, GY) <= j.y < lo(i.y, GY) + 3 and lo(i.x, GX) <= j.x < lo(i.x, GX) + 3",
        loop,
        **qkv(),
        GY=GY,
        GX=GX,
    )


def test_keys_outside_the_picture_stay_in_the_softmax() -> None:
    def formula(q: Tensor, k: Tensor, v: Tensor, GY: int, GX: int) -> Tensor:  # noqa: N803
        def patches(z: Tensor) -> Tensor:
            image = z.mT.reshape(B * H, -1, GY, GX)
            return F.unfold(image, 3, padding=1).reshape(B, H, z.shape[-1], 9, N)

        score = (q.mT[:, :, :, None] * patches(k)).sum(2) / math.sqrt(D)
        return (score.softmax(2)[:, :, None] * patches(v)).sum(3).mT

    same(
        "grid y, x\naxis u = 3\naxis w = 3\n"
        "let s[i, u, w] = dot(q[i], k[y=i.y + u - 1, x=i.x + w - 1, pad=0]) / sqrt(D)\n"
        "output = sum(u, w, softmax(s, over=(u, w)) * v[y=i.y + u - 1, x=i.x + w - 1, pad=0])",
        formula,
        **qkv(),
        GY=GY,
        GX=GX,
    )
    same(
        "grid y, x\naxis u = 3\naxis w = 3\n"
        "mask abs(i.y - j.y) <= 1 and abs(i.x - j.x) <= 1\n"
        "let inside = 0 <= i.y + u - 1 < GY and 0 <= i.x + w - 1 < GX\n"
        "weight = softmax(score, sink=logsumexp(u, w, 0.0, where=not inside))",
        formula,
        **qkv(),
        GY=GY,
        GX=GX,
    )


def test_depthwise_convolution() -> None:
    def formula(v: Tensor, conv: Tensor, GY: int, GX: int) -> Tensor:  # noqa: N803
        image = v.mT.reshape(B, H * E, GY, GX)
        kernel = conv.permute(0, 3, 1, 2).reshape(H * E, 1, 3, 3)
        out = F.conv2d(image, kernel, padding=1, groups=H * E)
        return out.reshape(B, H, E, N).mT

    same(
        "grid y, x\nparam conv[h, 3, 3, e] = 0\naxis u = 3\naxis w = 3\n"
        "let c[i] = sum(u, w, conv[u, w] * v[y=i.y + u - 1, x=i.x + w - 1, pad=0])\n"
        "output = c[i]",
        formula,
        v=random_leaf(B, H, N, E),
        conv=random_leaf(H, 3, 3, E),
        GY=GY,
        GX=GX,
    )


def test_queries_on_a_coarser_grid() -> None:
    def loop(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        GY_i: int,  # noqa: N803
        GX_i: int,  # noqa: N803
        GY_j: int,  # noqa: N803
        GX_j: int,  # noqa: N803
    ) -> Tensor:
        out = []
        for y in range(GY_i):
            for x in range(GX_i):
                keys = [
                    a * GX_j + b
                    for a in range(GY_j)
                    for b in range(GX_j)
                    if a // 2 == y and b // 2 == x
                ]
                i = y * GX_i + x
                out.append(softmax(q[:, :, i : i + 1], k[:, :, keys], v[:, :, keys]))
        return torch.cat(out, 2)

    same(
        "grid i: y, x\ngrid j: y, x\nmask j.y // 2 == i.y and j.x // 2 == i.x",
        loop,
        **qkv(6),
        GY_i=3,
        GX_i=2,
        GY_j=6,
        GX_j=4,
    )


def test_three_dimensions() -> None:
    def formula(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        GF: int,  # noqa: N803
        GY: int,  # noqa: N803
        GX: int,  # noqa: N803
    ) -> Tensor:
        def cut(z: Tensor) -> Tensor:
            return z.reshape(B, H, GF, GY * GX, -1).transpose(2, 3)

        return softmax(*(cut(z) for z in (q, k, v))).transpose(2, 3).reshape(B, H, N, E)

    same("grid f, y, x\nmask i.y == j.y and i.x == j.x", formula, **qkv(), GF=2, GY=3, GX=4)
