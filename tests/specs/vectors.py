"""Formulas of the specs whose weights differ between channels, or are mixed across heads."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, Draw, dots, scaled
from torch import Tensor
from torch.nn.functional import relu, silu


def talking_heads(q: Tensor, k: Tensor, v: Tensor, before: Tensor, after: Tensor) -> Tensor:
    mixed = torch.einsum("hu,buij->bhij", before, dots(q, k)) / math.sqrt(q.shape[3])
    return torch.einsum("hg,bgij->bhij", after, torch.softmax(mixed, -1)) @ v


def mixed_once(q: Tensor, k: Tensor, v: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Both mixtures before the softmax."""
    mixed = torch.einsum("hg,gu,buij->bhij", after, before, dots(q, k)) / math.sqrt(q.shape[3])
    return torch.softmax(mixed, -1) @ v


def related(
    q: Tensor, k: Tensor, point: Tensor, place: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """The weights and the offsets of every channel, [B, H, M, N, E]."""
    between = point[:, :, None] - point[:, None]
    offset = torch.einsum("bijx,hxe->bhije", between, place)
    relation = relu(q[:, :, :, None] - k[:, :, None] + offset)
    return torch.softmax(slope[:, None, None] * relation, 3), offset


def vector_attention(
    q: Tensor, k: Tensor, v: Tensor, point: Tensor, place: Tensor, slope: Tensor
) -> Tensor:
    weights, offset = related(q, k, point, place, slope)
    return (weights * (v[:, :, None] + offset)).sum(3)


def weights_of_points(
    q: Tensor, k: Tensor, v: Tensor, point: Tensor, place: Tensor, slope: Tensor
) -> Tensor:
    """The offset counts for the weights alone."""
    return (related(q, k, point, place, slope)[0] * v[:, :, None]).sum(3)


def lightnet(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = []
    for i in range(q.shape[2]):
        keys = torch.softmax(k[:, :, : i + 1], 2)
        state = torch.einsum("bhjd,bhje->bhde", keys, v[:, :, : i + 1])
        out.append(torch.einsum("bhd,bhde->bhe", silu(q[:, :, i]), state))
    y = torch.stack(out, 2)
    return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)


def whole_sequence_normalised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys normalised over tokens to come, too."""
    keys = torch.softmax(k, 2)
    y = torch.tril(dots(silu(q), keys)) @ v
    return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)


def weighted_key_values(k: Tensor, v: Tensor, rate: Tensor, bonus: Tensor) -> Tensor:
    n, out = k.shape[2], []
    for i in range(n):
        away = (torch.arange(n) - i).abs()[:, None]
        logits = k - (away - 1) * rate[:, None] / n
        logits[:, :, i] = k[:, :, i] + bonus / n
        weights = torch.exp(logits)
        out.append((weights * v).sum(2) / weights.sum(2))
    return torch.stack(out, 2)


def bidirectional_wkv(q: Tensor, k: Tensor, v: Tensor, rate: Tensor, bonus: Tensor) -> Tensor:
    return torch.sigmoid(q) * weighted_key_values(k, v, rate, bonus)


def no_step_less(q: Tensor, k: Tensor, v: Tensor, rate: Tensor, bonus: Tensor) -> Tensor:
    """The distance as it is, not less one."""
    away = rate[:, None] / k.shape[2]
    return torch.sigmoid(q) * weighted_key_values(k - away, v, rate, bonus + rate)


def guided_wkv(
    k: Tensor, v: Tensor, rate: Tensor, bonus: Tensor, before: Tensor, after: Tensor,
    residual: Tensor,
) -> Tensor:  # fmt: skip
    joined = v + before[:, None] * residual
    return weighted_key_values(k, joined, rate, bonus) + after[:, None] * (residual - v)


def _rates(r: Draw) -> dict[str, Tensor]:
    return {"rate": r.normal(r.h, r.e), "bonus": r.normal(r.h, r.e)}


def crystalformer(
    q: Tensor, k: Tensor, v: Tensor, position: Tensor, lattice: Tensor, shift: Tensor,
    width: Tensor, mix: Tensor,
) -> Tensor:  # fmt: skip
    """Attention over explicitly repeated atoms: a softmax over all images of all of them."""
    moved = position[:, :, None] + shift @ lattice[:, None]
    apart = moved[:, None] - position[:, :, None, None]
    length = torch.linalg.vector_norm(apart, dim=-1)  # which has no gradient at 0
    near = -(length**2)[:, None] / (2 * width[:, :, :, None, None] ** 2)
    weight = (scaled(q, k)[..., None] + near).flatten(3).softmax(-1)
    centres = 14 * torch.arange(mix.shape[1], dtype=mix.dtype) / mix.shape[1]
    shells = torch.exp(-((length[..., None] - centres) ** 2)).flatten(2, 3)
    psi = torch.einsum("bijr,hre->bhije", shells, mix)
    repeated = v.repeat_interleave(shift.shape[0], dim=2)
    radial = torch.einsum("bhij,bhije->bhie", weight, psi)
    out: Tensor = weight @ repeated + radial
    return out


def _crystal(r: Draw) -> dict[str, Tensor]:
    """Three images of every atom, itself among them."""
    shift = torch.tensor([[0, 0, 0], [1, 0, -1], [0, 2, 1]])
    return {
        "position": 3 * r.normal(r.b, r.n, 3),
        "lattice": 4 * torch.eye(3) + r.normal(r.b, 3, 3),
        "shift": shift.double(),
        "width": r.uniform(1, 4, r.b, r.h, r.m),
        "mix": r.normal(r.h, 7, r.e),
    }


CASES = {
    "talking_heads": Case(
        talking_heads, lambda r: {"before": r.normal(r.h, r.h), "after": r.normal(r.h, r.h)}, n=14
    ),
    "vector_attention": Case(
        vector_attention,
        lambda r: {
            "point": r.normal(r.b, r.n, 3),
            "place": r.normal(r.h, 3, r.e),
            "slope": r.normal(r.h, r.e),
        },
        d=5,
    ),
    "crystalformer": Case(crystalformer, _crystal, m=7, n=7),
    "lightnet": Case(lightnet),
    "bidirectional_wkv": Case(bidirectional_wkv, _rates, d=5),
    "guided_wkv": Case(
        guided_wkv,
        lambda r: {
            **_rates(r),
            "before": r.normal(r.h, r.e),
            "after": r.normal(r.h, r.e),
            "residual": r.normal(r.b, r.h, r.n, r.e),
        },
        operands="kv",
        d=5,
    ),
}
