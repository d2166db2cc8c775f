"""Formulas of the specs that give more than an output: maps, columns, masses, divergences."""

from __future__ import annotations

import torch
from tests.specs.case import (
    Case,
    Draw,
    attend_all,
    attend_causal,
    joined,
    scaled,
    weights_over,
)
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize


def causal_map(q: Tensor, k: Tensor) -> Tensor:
    """Weights of causal attention [b, h, i, j]."""
    return weights_over(scaled(q, k), lambda b, h, i: range(i + 1))


def kept_map(q: Tensor, k: Tensor, kept: Tensor) -> Tensor:
    """Weights of causal attention to the kept keys of every head."""

    def keys(b: int, h: int, i: int) -> list[int]:
        return [j for j in range(i + 1) if kept[b, h, j]]

    return weights_over(scaled(q, k), keys)


def heavy_hitters(q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> Tensor:
    # One decoding step after the other; each adds its row to what the keys have received.
    rows = kept_map(q, k, kept)
    received = torch.zeros_like(rows[:, :, 0])
    for row in rows.unbind(2):
        received = received + row
    return joined([rows @ v, received])


def evicted_keys(q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> Tensor:
    rows = kept_map(q, k, kept)
    return joined([rows @ v, rows])


def class_readout(q: Tensor, k: Tensor, v: Tensor, x: Tensor, kept: Tensor) -> Tensor:
    weights = torch.softmax(scaled(q, k), -1)
    rating = weights[:, :, 0].mean(1)
    fused = []
    for row, tokens, stay in zip(rating, x, kept, strict=True):
        rest = [j for j in range(1, len(row)) if not stay[j]]
        fused.append(row[rest] @ tokens[rest])
    return joined([weights @ v, rating, torch.stack(fused)])


def focus_selector(q: Tensor, k: Tensor, v: Tensor, threshold: float) -> Tensor:
    rating = torch.softmax(scaled(q[:, :, -1:], k), -1)[:, :, 0].mean(1)
    return joined([attend_causal(scaled(q, k), v), rating * (rating > threshold)])


def token_routing(q: Tensor, k: Tensor, v: Tensor, rates: Tensor) -> Tensor:
    weights = torch.softmax(scaled(q, k), -1)
    return joined([weights @ v, weights.mean(1) @ rates])


def attention_flow(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
    weights = torch.softmax(scaled(q, k), -1)
    certain = weights.max(-1).values.mean(-1)
    flow = (certain[..., None, None] * weights).mean(1)
    return (torch.eye(x.shape[1], dtype=x.dtype) + flow) @ x


def token_pruning(
    q: Tensor, k: Tensor, v: Tensor, kept: Tensor, threshold: Tensor, sharpness: float
) -> Tensor:
    # Among the kept tokens alone.
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    ratings = torch.zeros(kept.shape, dtype=q.dtype)
    for b, row in enumerate(kept):
        at = row.nonzero()[:, 0]
        weights = torch.softmax(scaled(q[b : b + 1, :, at], k[b : b + 1, :, at]), -1)[0]
        ratings[b, at] = weights.mean((0, 1))
        fade = torch.sigmoid(sharpness * (ratings[b, at] - threshold))
        out[b, :, at] = fade[:, None] * (weights @ v[b, :, at])
    return joined([out, ratings])


def block_maxima(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights, length = causal_map(q, k), 16
    starts = range(0, q.shape[2], length)
    rows = []
    for a in starts:
        parts = [weights[:, :, a : a + length, c : c + length].amax((2, 3)) for c in starts]
        row = torch.stack(parts, -1)
        rows.append(row / row.sum(-1, keepdim=True))
    return joined([weights @ v, torch.stack(rows, 2).detach()])


def attention_distillation(
    q: Tensor, k: Tensor, v: Tensor, teacher_q: Tensor, teacher_k: Tensor
) -> Tensor:
    student = log_softmax(scaled(q, k), -1)
    teacher = torch.softmax(scaled(teacher_q, teacher_k), -1).detach()
    return joined([student.exp() @ v, kl_div(student, teacher, reduction="none").sum(-1)])


def co_attention(q: Tensor, k: Tensor, v: Tensor, x: Tensor, metric: Tensor) -> Tensor:
    score = torch.einsum("bhid,hdf,bhjf->bhij", q, metric, k)
    return joined([attend_all(score, v), attend_all(score.mT, x)])


def hard_attention(q: Tensor, k: Tensor, v: Tensor, gumbel: Tensor) -> Tensor:
    score = scaled(q, k)
    drawn = (score + gumbel).max(-1).indices[..., None]
    values = v.gather(2, drawn.expand(*drawn.shape[:3], v.shape[3]))
    return joined([values, log_softmax(score, -1).gather(3, drawn)[..., 0]])


def soft_visual_attention(q: Tensor, k: Tensor, v: Tensor, w: Tensor, open: Tensor) -> Tensor:
    energy = torch.tanh(q[:, :, :, None] + k[:, :, None])
    weights = torch.softmax(torch.einsum("bhijd,hd->bhij", energy, w), -1)
    return joined(
        [torch.sigmoid(open)[..., None] * (weights @ v), (1 - weights.sum(2)).square().sum(-1)]
    )


def hole_filling(
    q: Tensor, k: Tensor, v: Tensor, below: Tensor, hole: Tensor, known: Tensor, heat: float
) -> Tensor:
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    wider = torch.zeros(*q.shape[:3], below.shape[3], dtype=q.dtype)
    for b in range(q.shape[0]):
        rows, keys = hole[b].nonzero()[:, 0], known[b].nonzero()[:, 0]
        unit_q, unit_k = normalize(q[b, :, rows], dim=-1), normalize(k[b, :, keys], dim=-1)
        weights = torch.softmax(heat * unit_q @ unit_k.mT, -1)
        out[b, :, rows], wider[b, :, rows] = weights @ v[b, :, keys], weights @ below[b, :, keys]
    return joined([out, wider])


def graph_walks(q: Tensor, k: Tensor, x: Tensor, edge: Tensor, share: Tensor) -> Tensor:
    keys = [[row.nonzero()[:, 0].tolist() for row in matrix] for matrix in edge]
    chances = weights_over(scaled(q, k), lambda b, h, i: keys[b][i]).mean(1)
    walks = [torch.linalg.matrix_power(chances, steps) @ x for steps in (1, 2, 3)]
    return sum((part * walk for part, walk in zip(share, walks, strict=True)), torch.zeros(()))


def document_mass(q: Tensor, k: Tensor, v: Tensor, doc: Tensor) -> Tensor:
    weights = causal_map(q, k)
    empty = torch.zeros(q.shape[2], 16, dtype=q.dtype)
    mean = weights.mean(1)
    mass = [empty.index_add(1, of, rows) for of, rows in zip(doc, mean, strict=True)]
    return joined([weights @ v, torch.stack(mass)])


def attention_columns(q: Tensor, k: Tensor, v: Tensor, token: Tensor) -> Tensor:
    weights = torch.softmax(scaled(q, k), -1)
    columns = [weights[b, :, :, at].mean(0) for b, at in enumerate(token)]
    return joined([weights @ v, torch.stack(columns)])


def accumulated_map(q: Tensor, k: Tensor, words: Tensor) -> Tensor:
    return (torch.softmax(scaled(q, k), -1).mT @ words[:, None]).mean(1)


def _kept(r: Draw) -> dict[str, Tensor]:
    return {"kept": r.flags(0.6, r.b, r.h, r.n)}


def _hole(r: Draw) -> dict[str, Tensor | float]:
    hole = r.flags(0.5, r.b, r.n)
    return {"below": r.normal(r.b, 2, r.n, 7), "hole": hole, "known": ~hole, "heat": 3.0}


CASES = {
    "heavy_hitters": Case(heavy_hitters, _kept, returned=("output", "received")),
    "evicted_keys": Case(evicted_keys, _kept, returned=("output", "columns")),
    "class_readout": Case(
        class_readout,
        lambda r: {"x": r.normal(r.b, r.n, 7), "kept": r.flags(0.5, r.b, r.n)},
        returned=("output", "attention_of_class", "fused"),
    ),
    "focus_selector": Case(
        focus_selector, lambda r: {"threshold": 0.09}, returned=("output", "focus")
    ),
    "token_routing": Case(
        token_routing,
        lambda r: {"rates": r.normal(r.b, r.n, 3)},
        n=14,
        returned=("output", "routes"),
    ),
    "attention_flow": Case(
        attention_flow, lambda r: {"x": r.normal(r.b, r.n, 7)}, operands="qk", returned=("flow",)
    ),
    "token_pruning": Case(
        token_pruning,
        lambda r: {"kept": r.flags(0.7, r.b, r.n), "threshold": r.normal(), "sharpness": 8.0},
        returned=("output", "received"),
    ),
    "block_maxima": Case(block_maxima, m=50, n=50, returned=("output", "target")),
    "attention_distillation": Case(
        attention_distillation,
        lambda r: {"teacher_q": r.normal(r.b, r.h, r.m, 9), "teacher_k": r.normal(r.b, 2, r.n, 9)},
        keys=("teacher_k",),
        n=14,
        returned=("output", "divergence"),
    ),
    "co_attention": Case(
        co_attention,
        lambda r: {"x": r.normal(r.b, r.h, r.m, r.e), "metric": r.normal(r.h, r.d, r.d) / 2},
        m=7,
        n=12,
        returned=("output", "other"),
    ),
    "hard_attention": Case(
        hard_attention,
        lambda r: {"gumbel": -torch.log(-torch.log(r.uniform(0, 1, r.b, r.h, r.m, r.n)))},
        n=14,
        returned=("output", "log_weight"),
    ),
    "soft_visual_attention": Case(
        soft_visual_attention,
        lambda r: {"w": r.normal(r.h, r.d), "open": r.normal(r.b, r.h, r.m)},
        n=14,
        returned=("output", "penalty"),
    ),
    "hole_filling": Case(hole_filling, _hole, keys=("below",), returned=("output", "wider")),
    "graph_walks": Case(
        graph_walks,
        lambda r: {
            "x": r.normal(r.b, r.n, 7),
            "edge": r.flags(0.3, r.b, r.m, r.n),
            "share": r.uniform(0, 1, 3),
        },
        operands="qk",
        returned=("reached",),
    ),
    "document_mass": Case(
        document_mass,
        lambda r: {"doc": r.ints(0, 3, r.b, r.n)},
        returned=("output", "mass"),
    ),
    "attention_columns": Case(
        attention_columns,
        lambda r: {"token": r.ints(0, r.n, r.b, 3)},
        n=14,
        returned=("output", "columns"),
    ),
    "accumulated_map": Case(
        accumulated_map,
        lambda r: {"words": r.normal(r.b, r.m, 3)},
        operands="qk",
        n=14,
        returned=("spread",),
    ),
}
