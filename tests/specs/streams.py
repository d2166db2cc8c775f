"""Formulas of the specs with several softmax maps, or with a map that is changed afterwards."""

from __future__ import annotations

import torch
from tests.specs.case import Case, Draw, attend, attend_all, dots, joined, scaled, weights_over
from torch import Tensor
from torch.nn.functional import leaky_relu


def head_divergence(q: Tensor, k: Tensor, v: Tensor, visual: Tensor, factor: Tensor) -> Tensor:
    score = scaled(q, k)
    seen = attend(score, v, lambda b, h, i: range(i + 1))
    blind = attend(score, v, lambda b, h, i: [j for j in range(i + 1) if not visual[b, j]])
    return joined([factor[..., None, None] * seen, blind])


def perturbed_map(q: Tensor, k: Tensor, v: Tensor, noise: Tensor) -> Tensor:
    off = noise.clone()
    off.diagonal(dim1=2, dim2=3).zero_()
    return (torch.softmax(scaled(q, k), -1) - off) @ v


def perturbed_output(q: Tensor, k: Tensor, v: Tensor, noise: Tensor) -> Tensor:
    found = attend_all(scaled(q, k), v)
    spread, middle = torch.std_mean(found, -1, correction=0, keepdim=True)
    return found - torch.addcmul(middle, spread, noise)


def guided_sharing(
    q: Tensor, k: Tensor, v: Tensor, text: Tensor, fore: Tensor, target: Tensor
) -> Tensor:
    def among(kept: Tensor) -> Tensor:
        return attend(scaled(q, k), v, lambda b, h, i: kept[b].nonzero()[:, 0].tolist())

    inside, outside = among(text | fore), among(text | ~fore)
    return torch.lerp(outside, inside, target[:, None, :, None].expand_as(inside))


def modality_streams(q: Tensor, k: Tensor, v: Tensor, visual: Tensor, open: Tensor) -> Tensor:
    def past(kind: Tensor) -> Tensor:
        def keys(b: int, h: int, i: int) -> list[int]:
            return kind[b, : i + 1].nonzero()[:, 0].tolist()

        return attend(scaled(q, k), v, keys)

    return open[:, None, None] * past(visual) + past(~visual)


def relation_graph(v: Tensor, asks: Tensor, offers: Tensor, edge: Tensor, mix: Tensor) -> Tensor:
    score = leaky_relu(asks[..., :, None] + offers[..., None, :], 0.2)
    weights = weights_over(score, lambda b, h, i: edge[b, h, i].nonzero()[:, 0].tolist())
    return torch.softmax(mix, 1)[..., None] * (weights @ v)


def residual_pooling(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    share = torch.softmax(dots(q, torch.tanh(k)), -1)
    grown = v[:, :, None] + share[..., None] * v[:, :, None]
    return grown.sum(3)


def _relations(r: Draw) -> dict[str, Tensor]:
    return {
        "asks": r.normal(r.b, r.h, r.m),
        "offers": r.normal(r.b, r.h, r.n),
        "edge": r.flags(0.3, r.b, r.h, r.m, r.n),
        "mix": r.normal(r.b, r.h, r.m),
    }


CASES = {
    "head_divergence": Case(
        head_divergence,
        lambda r: {"visual": r.flags(0.5, r.b, r.n), "factor": r.uniform(0.5, 2, r.b, r.h)},
        returned=("output", "blind"),
    ),
    "perturbed_map": Case(
        perturbed_map, lambda r: {"noise": r.uniform(0, 0.3, r.b, r.h, r.m, r.n)}
    ),
    "perturbed_output": Case(
        perturbed_output, lambda r: {"noise": r.normal(r.b, r.h, r.m, r.e)}, n=14
    ),
    "guided_sharing": Case(
        guided_sharing,
        lambda r: {
            "text": r.flags(0.2, r.b, r.n),
            # No foreground at all in the second image: text alone is left for it.
            "fore": r.flags(0.5, r.b, r.n) & torch.tensor([[True], [False]]),
            "target": r.uniform(0, 1, r.b, r.m),
        },
        n=14,
    ),
    "modality_streams": Case(
        modality_streams,
        lambda r: {"visual": r.flags(0.5, r.b, r.n), "open": r.normal(r.h)},
    ),
    "relation_graph": Case(relation_graph, _relations, operands="v"),
    "residual_pooling": Case(residual_pooling, m=3, n=14),
}
