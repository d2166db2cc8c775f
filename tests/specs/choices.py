"""Formulas of the specs in which something chooses: keys, tokens, windows or heads."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, Draw, attend, attend_all, fold, scaled
from tests.specs.grids import plain
from tests.specs.positions import local
from tests.specs.scores import rope, rotate
from torch import Tensor


def connectivity(q: Tensor, k: Tensor, v: Tensor, connected: Tensor) -> Tensor:
    return attend(scaled(q, k), v, lambda b, h, i: connected[b, h, i].nonzero()[:, 0].tolist())


def stochastic_window(q: Tensor, k: Tensor, v: Tensor, place: Tensor, reach: int) -> Tensor:
    # Put the tokens in their new order, let a window slide over them, and put them back.
    out = []
    for b, to in enumerate(place):
        order = to.argsort()
        at = (slice(b, b + 1), slice(None), order)
        out.append(local(q[at], k[at], v[at], reach)[:, :, to])
    return torch.cat(out)


def expert_choice(q: Tensor, k: Tensor, v: Tensor, rating: Tensor, count: int) -> Tensor:
    places = torch.arange(q.shape[2], dtype=torch.float64)
    turned_q, turned_k = rotate(q, places), rotate(k, places)
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            mine = rating[b, h].topk(count).indices.sort().values
            score = turned_q[b, h, mine] @ turned_k[b, h, mine].mT / math.sqrt(q.shape[3])
            later = mine[:, None] < mine
            weights = torch.softmax(score.masked_fill(later, -math.inf), -1)
            out[b, h, mine] = torch.sigmoid(rating[b, h, mine])[:, None] * (weights @ v[b, h, mine])
    return out


def bipartite_halves(q: Tensor, k: Tensor, v: Tensor, second: bool) -> Tensor:
    half = k.shape[2] // 2
    early, late = slice(0, half), slice(half, None)
    asks, gives = (late, early) if second else (early, late)
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    out[:, :, asks] = plain((q[:, :, asks], k[:, :, gives], v[:, :, gives]))
    return out


def head_windows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    high: Tensor,
    wide: Tensor,
    down: Tensor,
    right: Tensor,
    gy: int,
    gx: int,
) -> Tensor:
    def cuts(length: int, side: int, moved: int) -> list[range]:
        first = moved % side - side
        return [range(max(0, at), min(length, at + side)) for at in range(first, length, side)]

    heads = []
    for h, (side_y, side_x) in enumerate(zip(high.tolist(), wide.tolist(), strict=True)):
        out = torch.zeros(q.shape[0], gy * gx, v.shape[3], dtype=q.dtype)
        for rows in cuts(gy, side_y, int(down[h])):
            for columns in cuts(gx, side_x, int(right[h])):
                y, x = (
                    c.flatten()
                    for c in torch.meshgrid(
                        torch.tensor(rows, dtype=torch.long),
                        torch.tensor(columns, dtype=torch.long),
                        indexing="ij",
                    )
                )
                at = y * gx + x
                score = q[:, h, at] @ k[:, h, at].mT / math.sqrt(q.shape[3])
                bias = table[h, y[:, None] - y + 15, x[:, None] - x + 15]
                out[:, at] = torch.softmax(score + bias, -1) @ v[:, h, at]
        heads.append(out)
    return torch.stack(heads, 1)


def window_pooling(
    q: Tensor, k: Tensor, v: Tensor, side: int, gy_i: int, gx_i: int, gy_j: int, gx_j: int
) -> Tensor:
    def windows(x: Tensor) -> Tensor:
        x = fold(x, 2, gy_i, side, gx_i, side)
        return x.transpose(3, 4).flatten(4, 5).flatten(2, 3)

    score = torch.einsum("bhid,bhiud->bhiu", q, windows(k)) / math.sqrt(q.shape[3])
    return torch.einsum("bhiu,bhiue->bhie", torch.softmax(score, -1), windows(v))


def mapped_heads(q: Tensor, keys: Tensor, values: Tensor, group: Tensor) -> Tensor:
    return attend_all(scaled(q, keys[:, group]), values[:, group])


def routed_experts(q: Tensor, k: Tensor, v: Tensor, router: Tensor) -> Tensor:
    share = torch.softmax(router, 1)
    best = share.topk(2, dim=1)
    kept = torch.zeros_like(share).scatter(1, best.indices, best.values)
    return attend_all(scaled(q, k), v) * kept[..., None]


def pruned_heads(q: Tensor, k: Tensor, v: Tensor, node: Tensor, head: Tensor) -> Tensor:
    taken = torch.where(node > 0, node, 0.0)
    weights = taken[:, None, None, :] * scaled(q, k).exp()
    return head[:, None, None] * (weights / weights.sum(-1, keepdim=True)) @ v


def token_choice(q: Tensor, k: Tensor, v: Tensor, router: Tensor, active: int) -> Tensor:
    # Each head's own short sequence, and its rows put back.
    kept = router.topk(active, dim=1).indices
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            at = (kept[b] == h).any(0).nonzero()[:, 0]
            if len(at):
                short = (x[b : b + 1, h : h + 1, at] for x in (q, k, v))
                out[b, h, at] = rope(*short)[0, 0]
    return out


def _connected(r: Draw) -> dict[str, Tensor]:
    connected = r.flags(0.3, r.b, r.h, r.m, r.n)
    connected[0, :, 3] = False
    return {"connected": connected}


def _shapes(r: Draw) -> dict[str, Tensor]:
    sizes = {
        "high": [2, 4, 6, 3],
        "wide": [2, 4, 3, 16],
        "down": [0, 2, 3, 1],
        "right": [1, 0, 1, 8],
    }
    return {"table": r.normal(r.h, 31, 31), **{name: torch.tensor(x) for name, x in sizes.items()}}


def _permutation(r: Draw) -> Tensor:
    return torch.stack([torch.randperm(r.n, generator=r.generator) for _ in range(r.b)])


def topk_attention(q: Tensor, k: Tensor, v: Tensor, kept: int) -> Tensor:
    score = scaled(q, k)

    def keys(b: int, h: int, i: int) -> list[int]:
        return score[b, h, i, : i + 1].detach().topk(min(kept, i + 1)).indices.tolist()

    return attend(score, v, keys)


def compressed(asked: Tensor, offered: Tensor, pooling: Tensor) -> Tensor:
    """The map of a predictor to few pooled keys, [B, H, M, r]."""
    pooled = torch.einsum("bhjc,jr->bhrc", offered, pooling)
    return torch.softmax(asked @ pooled.mT / math.sqrt(asked.shape[-1]), -1)


def sparsifiner(
    q: Tensor, k: Tensor, v: Tensor, *, share: float, basis: Tensor, least: float, **given: Tensor
) -> Tensor:
    basis = torch.nn.functional.threshold(basis.abs(), least, 0.0)
    likely = (compressed(**given) @ basis).detach()
    n = k.shape[2]

    def keys(b: int, h: int, i: int) -> list[int]:
        count = math.ceil(share * n) if i else n
        return likely[b, h, i].topk(count).indices.tolist()

    return attend(scaled(q, k), v, keys)


def _predictor(r: Draw) -> dict[str, Tensor | float]:
    channels, few = 3, 4
    return {
        "asked": r.normal(r.b, r.h, r.m, channels),
        "offered": r.normal(r.b, 2, r.n, channels),
        "pooling": r.normal(r.n, few),
        "basis": r.normal(few, r.n),
        "least": 0.8,
        "share": 0.3,
    }


CASES = {
    "topk_attention": Case(topk_attention, lambda r: {"kept": 3}),
    "sparsifiner": Case(sparsifiner, _predictor, keys=("offered",)),
    "connectivity": Case(connectivity, _connected),
    "stochastic_window": Case(stochastic_window, lambda r: {"place": _permutation(r), "reach": 2}),
    "expert_choice": Case(expert_choice, lambda r: {"rating": r.normal(r.b, r.h, r.n), "count": 5}),
    "bipartite_halves": Case(bipartite_halves, lambda r: {"second": True}),
    "head_windows": Case(head_windows, _shapes, grid={"GY": 7, "GX": 9}),
    "window_pooling": Case(
        window_pooling,
        lambda r: {"side": 3},
        grid={"GY_i": 2, "GX_i": 3, "GY_j": 6, "GX_j": 9},
    ),
    "mapped_heads": Case(
        mapped_heads,
        lambda r: {
            "keys": r.normal(r.b, 3, r.n, r.d),
            "values": r.normal(r.b, 3, r.n, r.e),
            "group": torch.tensor([0, 2, 2, 2]),
        },
        operands="q",
    ),
    "routed_experts": Case(
        routed_experts, lambda r: {"router": r.normal(r.b, r.h, r.m)}, kv_heads=1
    ),
    "token_choice": Case(token_choice, lambda r: {"router": r.normal(r.b, r.h, r.n), "active": 2}),
    "pruned_heads": Case(
        pruned_heads,
        lambda r: {
            "node": r.uniform(0.1, 1, r.b, r.n) * r.flags(0.7, r.b, r.n),
            "head": r.normal(r.h),
        },
    ),
}
