"""Formulas of the specs whose weight is the point: sinks, activations, given maps, pooling."""

from __future__ import annotations

import itertools
import math

import torch
from tests.specs.case import Case, attend, attend_all, dots, each_pair, scaled, weights_over
from torch import Tensor


def with_sink(score: Tensor, v: Tensor, rest: Tensor, window: int) -> Tensor:
    # A further key with logit `rest` and value zero; key n stands for it.
    n = score.shape[-1]
    column = rest[:, None, None].expand(*score.shape[:-1], 1)
    padded = torch.cat([v, torch.zeros_like(v[:, :, :1])], dim=2)
    return attend(
        torch.cat([score, column], dim=-1),
        padded,
        lambda b, h, i: [*range(max(0, i - window + 1), i + 1), n],
    )


def sink(q: Tensor, k: Tensor, v: Tensor, rest: Tensor) -> Tensor:
    return with_sink(scaled(q, k), v, rest, k.shape[2])


def sink_window(q: Tensor, k: Tensor, v: Tensor, rest: Tensor, window: int) -> Tensor:
    return with_sink(scaled(q, k), v, rest, window)


def softmax_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = scaled(q, k).exp()
    return weights / (1 + weights.sum(-1, keepdim=True)) @ v


def sigmoid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return 1 / (1 + k.shape[2] * torch.exp(-scaled(q, k))) @ v


def relu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled(q, k).clamp(min=0) @ v / k.shape[2]


def relu_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled(q, k).clamp(min=0).tril() @ v


def philox_word(counter: list[int], key: int) -> int:
    """The first word of Philox 4x32-10 (Salmon et al. 2011, figure 2)."""
    left, right = key % 2**32, key // 2**32 % 2**32
    for _ in range(10):
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [b >> 32 ^ counter[1] ^ left, b % 2**32, a >> 32 ^ counter[3] ^ right, a % 2**32]
        left, right = (left + 0x9E3779B9) % 2**32, (right + 0xBB67AE85) % 2**32
    return counter[0]


def dropout(q: Tensor, k: Tensor, v: Tensor, p: float, seed: int) -> Tensor:
    weights = weights_over(scaled(q, k), lambda b, h, i: range(i + 1))
    for place in itertools.product(*map(range, weights.shape)):
        b, h, i, j = place
        word = philox_word([b * q.shape[1] + h, i, j, 0], seed)
        stays = ((word >> 9) + 0.5) / 2**23 >= p
        weights[place] = weights[place] / (1 - p) if stays else 0.0
    return weights @ v


def relu_features(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (dots(q, k).clamp(min=0)[..., None] * v[:, :, None]).mean(3)


def _mega_bias(table: Tensor, m: int, n: int) -> Tensor:
    return table[each_pair(m, n, lambda i, j: 255 + j - i).long()]


def squared_relu(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    m, n = q.shape[2], k.shape[2]
    return (dots(q, k) / n + _mega_bias(table, m, n)).clamp(min=0).square() @ v


def normal_cdf(x: Tensor) -> Tensor:
    """Distribution function of the normal with mean sqrt(1/2) and variance 1 / (4 pi)."""
    return 1 - 0.5 * torch.erfc((x - math.sqrt(0.5)) * math.sqrt(2 * math.pi))


def laplace(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    m, n = q.shape[2], k.shape[2]
    return normal_cdf(dots(q, k) / n + _mega_bias(table, m, n)) @ v


def laplace_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    seen = torch.arange(1, k.shape[2] + 1)[:, None]
    return normal_cdf(dots(q, k) / seen).tril() @ v


def linear_step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # Associated the other way round: a state of keys and values, read by the query.
    return q @ (k.mT @ v) / k.shape[2]


def spike(q: Tensor, k: Tensor, v: Tensor, steps: int, scale: float, gf: int, gp: int) -> Tensor:
    width = steps * gp
    spans = [slice(start, start + width) for start in range(0, gf * gp, width)]
    return torch.cat([scale * q[:, :, s] @ (k[:, :, s].mT @ v[:, :, s]) for s in spans], dim=2)


def graph_additive(v: Tensor, asks: Tensor, offers: Tensor, adjacent: Tensor) -> Tensor:
    score = torch.nn.functional.leaky_relu(asks[..., :, None] + offers[..., None, :], 0.2)
    keys = [[row.nonzero()[:, 0].tolist() for row in matrix] for matrix in adjacent]
    return weights_over(score, lambda b, h, i: keys[b][i]) @ v


def given_logits(v: Tensor, logits: Tensor) -> Tensor:
    return attend_all(logits, v)


def given_sigmoid(v: Tensor, logits: Tensor) -> Tensor:
    return torch.einsum("bhij,bhje->bhie", torch.sigmoid(logits), v)


def unscaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend_all(dots(q, k), v)


def attention_copy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend_all(scaled(q, k).detach(), v)


def patch_selectors(q: Tensor, k: Tensor, heat: float) -> Tensor:
    return attend_all(heat * dots(q, k.detach()), k.detach())


def gated_pooling(q: Tensor, v: Tensor, content: Tensor, gates: Tensor, dropped: Tensor) -> Tensor:
    # Drop mass after the softmax and normalise again.
    features = torch.tanh(content) * torch.sigmoid(gates)
    weights = torch.softmax(dots(q, features), -1) * ~dropped[:, :, None]
    return weights / weights.sum(-1, keepdim=True) @ v


def low_rank_pooling(q: Tensor, k: Tensor, v: Tensor, context: Tensor) -> Tensor:
    score = torch.einsum("bhid,bd,bhjd->bhij", q, torch.tanh(context), torch.tanh(k))
    return attend_all(score, v)


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q @ (k.mT @ v)


def pointer(q: Tensor, k: Tensor, reachable: Tensor, clip: float) -> Tensor:
    score = clip * torch.tanh(scaled(q, k))
    return weights_over(score, lambda b, h, i: reachable[b, i].nonzero()[:, 0].tolist())


CASES = {
    "sink": Case(sink, lambda r: {"rest": r.normal(r.h)}),
    "sink_window": Case(sink_window, lambda r: {"rest": r.normal(r.h), "window": 3}),
    "softmax_one": Case(softmax_one, n=14),
    "sigmoid": Case(sigmoid, n=14),
    "relu": Case(relu, n=14),
    "relu_causal": Case(relu_causal),
    "dropout": Case(dropout, lambda r: {"p": 0.3, "seed": 5 + 2**40}),
    "relu_features": Case(relu_features, m=1, n=14),
    "squared_relu": Case(squared_relu, lambda r: {"table": r.normal(511)}, n=14),
    "laplace": Case(laplace, lambda r: {"table": r.normal(511)}, n=14),
    "laplace_causal": Case(laplace_causal),
    "linear_step": Case(linear_step, n=14),
    "spike": Case(spike, lambda r: {"steps": 2, "scale": 0.3}, grid={"GF": 5, "GP": 3}),
    "graph_additive": Case(
        graph_additive,
        lambda r: {
            "asks": r.normal(r.b, r.h, r.m),
            "offers": r.normal(r.b, r.h, r.n),
            "adjacent": r.flags(0.2, r.b, r.m, r.n),
        },
        operands="v",
    ),
    "given_logits": Case(
        given_logits, lambda r: {"logits": r.normal(r.b, r.h, r.m, r.n)}, operands="v", n=14
    ),
    "given_sigmoid": Case(
        given_sigmoid, lambda r: {"logits": r.normal(r.b, r.h, r.m, r.n)}, operands="v", n=14
    ),
    "unscaled": Case(unscaled, n=14, e=9),
    "attention_copy": Case(attention_copy),
    "patch_selectors": Case(patch_selectors, lambda r: {"heat": 0.7}, operands="qk", m=3),
    "gated_pooling": Case(
        gated_pooling,
        lambda r: {
            "content": r.normal(r.b, 1, r.n, r.d),
            "gates": r.normal(r.b, 1, r.n, r.d),
            "dropped": r.flags(0.3, r.b, r.h, r.n),
        },
        operands="qv",
        keys=("content", "gates"),
        m=1,
        n=14,
    ),
    "low_rank_pooling": Case(
        low_rank_pooling, lambda r: {"context": r.normal(r.b, r.d)}, m=2, n=14
    ),
    "linear": Case(linear, n=14),
    "pointer": Case(
        pointer,
        lambda r: {"reachable": r.flags(0.4, r.b, r.m, r.n), "clip": 3.0},
        operands="qk",
        returned=("p",),
    ),
}
