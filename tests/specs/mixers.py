"""Formulas of the specs that gate tokens, or mix them by learned matrices, without a query."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, Draw, fold
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, gelu, group_norm, max_pool2d, relu


def gaussian_gate(v: Tensor, offset: Tensor, width: Tensor) -> Tensor:
    spread, centre = torch.var_mean(v, dim=2, keepdim=True)
    density = torch.ones_like(v)
    for g in range(offset.shape[1]):
        shift, scale = offset[:, g, None, None], width[:, g, None, None]
        z = (v - centre - shift) / torch.sqrt(spread + 1e-8)
        density = density * torch.exp(-z.square() / (2 * scale.square()))
    return v * density / density.sum(2, keepdim=True)


def density_gate(v: Tensor, offset: Tensor, width: Tensor) -> Tensor:
    spread, centre = torch.var_mean(v, dim=2, keepdim=True, correction=0)
    z = (v - centre)[:, :, None] - offset[:, :, None, None]
    z = z / torch.sqrt(spread + 1e-5)[:, :, None]
    density = torch.exp(-z.square() / (2 * width[:, :, None, None].square()))
    return v * density.mean(2)


def mixer_gate(v: Tensor, x: Tensor, first: Tensor, second: Tensor, mix: Tensor) -> Tensor:
    n = v.shape[2]
    hidden = gelu(torch.einsum("rj,bhje->bhre", first[:, :n], v))
    gates = v + torch.einsum("ir,bhre->bhie", second[:n], hidden)
    return torch.einsum("bhic,hce->bhie", x, mix) * gates


def blocks_of(x: Tensor, gy: int, gx: int) -> Tensor:
    """[b, h, tokens, e] as [b, h, blocks, places, e], blocks of 4 by 4."""
    cut = fold(x, 2, gy // 4, 4, gx // 4, 4)
    return cut.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def unblocked(x: Tensor, gy: int, gx: int) -> Tensor:
    """The inverse of `blocks_of`."""
    cut = fold(fold(x, 3, 4, 4), 2, gy // 4, gx // 4)
    return cut.transpose(3, 4).flatten(2, 5)


def to_grid(x: Tensor, gy: int, gx: int) -> Tensor:
    """Exchange the cell of a 4 by 4 grid and the place in it: grid mixing becomes block mixing."""
    cut = fold(x, 2, 4, gy // 4, 4, gx // 4)
    return cut.transpose(2, 3).transpose(4, 5).flatten(2, 5)


def from_grid(x: Tensor, gy: int, gx: int) -> Tensor:
    """The inverse of `to_grid`."""
    cut = fold(x, 2, gy // 4, 4, gx // 4, 4)
    return cut.transpose(2, 3).transpose(4, 5).flatten(2, 5)


def block_gating(v: Tensor, z: Tensor, mix: Tensor, bias: Tensor, gy: int, gx: int) -> Tensor:
    parts = blocks_of(v, gy, gx)
    mixed = torch.einsum("...pr,bhnre->bhnpe", mix, parts) + bias[..., None]
    return z * unblocked(mixed, gy, gx)


def grid_gating(v: Tensor, z: Tensor, mix: Tensor, bias: Tensor, gy: int, gx: int) -> Tensor:
    gated = block_gating(to_grid(v, gy, gx), to_grid(z, gy, gx), mix, bias, gy, gx)
    return from_grid(gated, gy, gx)


def cross_gating(v: Tensor, z: Tensor, mix: Tensor, bias: Tensor, gy: int, gx: int) -> Tensor:
    half = z.shape[1] // 2
    out = []
    for h in range(z.shape[1]):
        way = block_gating if h < half else grid_gating
        one = slice(h, h + 1)
        out.append(way(v[:, one], z[:, one], mix[h], bias[h], gy, gx))
    return torch.cat(out, 1)


def gated_convolution(
    v: Tensor, x: Tensor, mix: Tensor, mix_bias: Tensor, taps: Tensor, taps_bias: Tensor
) -> Tensor:
    b, heads, n, e = v.shape
    channels = v.transpose(2, 3).flatten(1, 2)
    kernel = taps.flip(1).transpose(1, 2).flatten(0, 1)[:, None]
    padded = torch.nn.functional.pad(channels, (kernel.shape[2] - 1, 0))
    filtered = conv1d(padded, kernel, taps_bias.flatten(), groups=heads * e)
    linear = torch.einsum("bhic,hce->bhie", x, mix) + mix_bias[:, None]
    return linear * filtered.view(b, heads, e, n).transpose(2, 3)


def wide(x: Tensor) -> Tensor:
    """The channels of all heads side by side: [b, h, n, e] as [b, n, h e]."""
    return x.transpose(1, 2).flatten(2)


def excite(v: Tensor, hidden: Tensor, up: Tensor) -> Tensor:
    """Every token times the sigmoid of the hidden units [b, r] through `up` [r, h, e]."""
    return v * torch.sigmoid(torch.einsum("br,rhe->bhe", hidden, up))[:, :, None]


def squeeze_excitation(v: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return excite(v, relu(wide(v).mean(1) @ down.flatten(0, 1)), up)


def sentence_gate(
    v: Tensor, sentence: Tensor, down: Tensor, from_sentence: Tensor, up: Tensor
) -> Tensor:
    both = torch.cat([wide(v).mean(1), sentence], -1)
    return excite(v, relu(both @ torch.cat([down.flatten(0, 1), from_sentence])), up)


def additive_gate(
    v: Tensor,
    signal: Tensor,
    from_token: Tensor,
    from_signal: Tensor,
    hidden_bias: Tensor,
    psi: Tensor,
    bias: Tensor,
) -> Tensor:
    out = []
    for h in range(signal.shape[1]):
        hidden = relu(v[:, h] @ from_token[h] + signal[:, h] @ from_signal[h] + hidden_bias[h])
        out.append(torch.sigmoid(hidden @ psi[h] + bias[h])[..., None] * v[:, h])
    return torch.stack(out, 1)


def channel_then_place(
    v: Tensor, down: Tensor, up: Tensor, of_mean: Tensor, of_max: Tensor, gy: int, gx: int
) -> Tensor:
    first = down.flatten(0, 1)
    tokens = wide(v)
    logits = [relu(x @ first) @ up.flatten(1) for x in (tokens.mean(1), tokens.amax(1))]
    image = fold((tokens * torch.sigmoid(logits[0] + logits[1])[:, None]).mT, 2, gy, gx)
    pooled = torch.stack([image.mean(1), image.amax(1)], 1)
    place = torch.sigmoid(conv2d(pooled, torch.stack([of_mean, of_max])[None], padding=3))
    return fold(image * place, 1, *v.shape[1::2]).flatten(3).transpose(2, 3)


def strip_gate(v: Tensor, taps: Tensor, gain: Tensor, bias: Tensor, gy: int, gx: int) -> Tensor:
    b, heads, _, e = v.shape
    image = v.transpose(2, 3).reshape(b, heads * e, gy, gx)
    kernel = taps.transpose(1, 2).reshape(heads * e, 1, -1)

    def opened(strip: Tensor) -> Tensor:
        along = conv1d(strip, kernel, padding=3, groups=heads * e)
        return torch.sigmoid(group_norm(along, heads, gain.flatten(), bias.flatten(), eps=1e-5))

    gated = image * opened(image.mean(3))[..., None] * opened(image.mean(2))[:, :, None]
    return gated.reshape(b, heads, e, gy * gx).transpose(2, 3)


def subspace_gate(v: Tensor, scale: Tensor, combine: Tensor, gy: int, gx: int) -> Tensor:
    b, heads, n, e = v.shape
    image = (v * scale[:, None]).transpose(2, 3).reshape(b, heads * e, gy, gx)
    local = max_pool2d(image, 3, stride=1, padding=1).view(b, heads, e, n)
    share = torch.softmax(torch.einsum("he,bhen->bhn", combine, local), -1)
    return v + share[..., None] * v


def large_kernel_gate(
    v: Tensor, near: Tensor, far: Tensor, mix: Tensor, gy: int, gx: int
) -> Tensor:
    b, heads, n, e = v.shape
    image = v.transpose(2, 3).reshape(b, heads * e, gy, gx)
    first, second = (x.movedim(-1, 1).flatten(0, 1)[:, None] for x in (near, far))
    local = conv2d(image, first, padding=2, groups=heads * e)
    broad = conv2d(local, second, padding=9, dilation=3, groups=heads * e)
    gates = conv2d(broad, mix.flatten(2).flatten(0, 1).mT[..., None, None])
    return (image * gates).reshape(b, heads, e, n).transpose(2, 3)


def pooled_with_zeros(v: Tensor, scale: Tensor, combine: Tensor, gy: int, gx: int) -> Tensor:
    """Zeros around the image, where the maximum leaves it out."""
    b, heads, n, e = v.shape
    image = (v * scale[:, None]).transpose(2, 3).reshape(b, heads * e, gy, gx)
    padded = torch.nn.functional.pad(image, [1] * 4)
    local = max_pool2d(padded, 3, stride=1).view(b, heads, e, n)
    share = torch.softmax(torch.einsum("he,bhen->bhn", combine, local), -1)
    return v + share[..., None] * v


def normalised_by_channel(v: Tensor, offset: Tensor, width: Tensor) -> Tensor:
    """Densities normalised over the channels of a token, where the tokens share."""
    return gaussian_gate(v.mT, offset, width).mT


def each_head_alone(v: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """A head squeezed from its own channels, where all channels meet."""
    hidden = relu(torch.einsum("bhe,her->bhr", v.mean(2), down))
    return v * torch.sigmoid(torch.einsum("bhr,rhe->bhe", hidden, up))[:, :, None]


def _gaussians(r: Draw) -> dict[str, Tensor | int | float]:
    return {"offset": r.normal(r.h, 4) / 2, "width": r.uniform(0.7, 2, r.h, 4)}


def _mixing(r: Draw, *heads: int) -> dict[str, Tensor | int | float]:
    return {
        "z": r.normal(r.b, r.h, r.m, r.e),
        "mix": r.normal(*heads, 16, 16) / 4,
        "bias": r.normal(*heads, 16),
    }


SPREAD = math.sqrt(20)
CASES = {
    "gaussian_gate": Case(gaussian_gate, _gaussians, operands="v"),
    "density_gate": Case(density_gate, _gaussians, operands="v"),
    "mixer_gate": Case(
        mixer_gate,
        lambda r: {
            "x": r.normal(r.b, r.h, r.m, 3),
            "first": r.normal(256, 128) / 4,
            "second": r.normal(128, 256) / 16,
            "mix": r.normal(r.h, 3, r.e),
        },
        operands="v",
    ),
    "block_gating": Case(block_gating, _mixing, operands="v", grid={"GY": 8, "GX": 12}),
    "grid_gating": Case(grid_gating, _mixing, operands="v", grid={"GY": 8, "GX": 12}),
    "cross_gating": Case(
        cross_gating, lambda r: _mixing(r, r.h), operands="v", grid={"GY": 8, "GX": 12}
    ),
    "gated_convolution": Case(
        gated_convolution,
        lambda r: {
            "x": r.normal(r.b, r.h, r.m, 3),
            "mix": r.normal(r.h, 3, r.e),
            "mix_bias": r.normal(r.h, r.e),
            "taps": r.normal(r.h, 4, r.e),
            "taps_bias": r.normal(r.h, r.e),
        },
        operands="v",
    ),
    "squeeze_excitation": Case(
        squeeze_excitation,
        lambda r: {"down": r.normal(r.h, r.e, 8) / SPREAD, "up": r.normal(8, r.h, r.e)},
        operands="v",
    ),
    "sentence_gate": Case(
        sentence_gate,
        lambda r: {
            "sentence": r.normal(r.b, 3),
            "down": r.normal(r.h, r.e, 8) / SPREAD,
            "from_sentence": r.normal(3, 8),
            "up": r.normal(8, r.h, r.e),
        },
        operands="v",
    ),
    "additive_gate": Case(
        additive_gate,
        lambda r: {
            "signal": r.normal(r.b, r.h, r.m, 3),
            "from_token": r.normal(r.h, r.e, 7),
            "from_signal": r.normal(r.h, 3, 7),
            "hidden_bias": r.normal(r.h, 7),
            "psi": r.normal(r.h, 7),
            "bias": r.normal(r.h),
        },
        operands="v",
    ),
    "channel_then_place": Case(
        channel_then_place,
        lambda r: {
            "down": r.normal(r.h, r.e, 8) / SPREAD,
            "up": r.normal(8, r.h, r.e),
            "of_mean": r.normal(7, 7),
            "of_max": r.normal(7, 7),
        },
        operands="v",
        grid={"GY": 5, "GX": 6},
    ),
    "strip_gate": Case(
        strip_gate,
        lambda r: {
            "taps": r.normal(r.h, 7, r.e),
            "gain": r.normal(r.h, r.e),
            "bias": r.normal(r.h, r.e),
        },
        operands="v",
        grid={"GY": 5, "GX": 6},
    ),
    "large_kernel_gate": Case(
        large_kernel_gate,
        lambda r: {
            "near": r.normal(r.h, 5, 5, r.e),
            "far": r.normal(r.h, 7, 7, r.e),
            "mix": r.normal(r.h, r.e, r.h, r.e),
        },
        operands="v",
        grid={"GY": 8, "GX": 9},
    ),
    "subspace_gate": Case(
        subspace_gate,
        lambda r: {"scale": r.normal(r.h, r.e), "combine": r.normal(r.h, r.e)},
        operands="v",
        grid={"GY": 5, "GX": 6},
    ),
}
