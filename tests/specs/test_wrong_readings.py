"""Where a formula is often misread, the library's case must tell the readings apart.

Each function here is a plausible but wrong reading of a mechanism. On the inputs of the spec's own
case it must give something else than the right formula, or that case would prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from tests.specs import misreadings, mistakes
from tests.specs.additive import rectified_sum
from tests.specs.case import attend, attend_all, attend_causal, dots, scaled, weights_over
from tests.specs.grids import rolled_windows
from tests.specs.positions import moa, sliding_window
from tests.specs.test_library import CASES, seed_of
from tests.specs.weights import dropout, with_sink
from torch import Tensor


def neighbourhood_cut_off(q: Tensor, k: Tensor, v: Tensor, side: int, gy: int, gx: int) -> Tensor:
    """A truncated window at the border in place of one that is moved inward."""
    reach = side // 2

    def keys(b: int, h: int, i: int) -> list[int]:
        rows = range(max(0, i // gx - reach), min(gy, i // gx + reach + 1))
        columns = range(max(0, i % gx - reach), min(gx, i % gx + reach + 1))
        return [y * gx + x for y in rows for x in columns]

    return attend(scaled(q, k), v, keys)


def padding_left_out(q: Tensor, k: Tensor, v: Tensor, gy: int, gx: int) -> Tensor:
    """Neighbours outside the image masked, where they should take mass."""
    return neighbourhood_cut_off(q, k, v, 3, gy, gx)


def negative_logits_decayed(q: Tensor, k: Tensor, v: Tensor, alpha: float, window: int) -> Tensor:
    """Every far logit multiplied, the negative ones too."""
    place = torch.arange(k.shape[2])
    far = (place[:, None] - place).abs() > window / 2
    return attend_all(scaled(q, k) * torch.where(far, alpha, 1.0), v)


def gate_of_the_query(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """The gate's logarithm at the query: the softmax removes it."""
    return (
        attend_causal(scaled(q, k) + g.clamp(1e-6).log()[:, None, :, None], v) * g[:, None, :, None]
    )


def every_row_scaled(q: Tensor, k: Tensor, v: Tensor, reach: int) -> Tensor:
    """Log-length scaling on all rows instead of the first."""
    n = k.shape[2]

    def keys(b: int, h: int, i: int) -> set[int]:
        near = range(max(0, i - reach), min(n, i + reach + 1))
        return set(range(n)) if i == 0 else {0, *near}

    return attend(scaled(q, k) * math.log(n) / math.log(512), v, keys)


def scaled_by_width(q: Tensor, k: Tensor, v: Tensor, region: Tensor) -> Tensor:
    """The usual root of the head dimension, where the code takes the number of heads."""
    same = region[:, :, None] == region[:, None]
    return attend(scaled(q, k), v, lambda b, h, i: same[b, i].nonzero()[:, 0].tolist())


def scaled_by_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The root of one head's width, where the layer's width is meant."""
    return attend_all(scaled(q, k), v)


def wrapped_group_ahead(
    q: Tensor, k: Tensor, v: Tensor, shifted: Tensor, length: int, sinks: int
) -> Tensor:
    """Causal in the rolled order: the wrapped group lets early tokens see the last ones."""
    n = k.shape[2]

    def keys(b: int, h: int, i: int) -> list[int]:
        half = length // 2 if shifted[h] else 0
        rolled = [(j - half) % n for j in range(n)]
        mine = [j for j in range(n) if rolled[j] // length == rolled[i] // length]
        local = [j for j in mine if rolled[j] <= rolled[i]]
        return sorted({*local, *(j for j in range(sinks) if j <= i)})

    return attend(scaled(q, k), v, keys)


def window_without_edge(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, window: int) -> Tensor:
    """A window of `window` keys where the query and `window` keys before it are meant."""
    return CASES["gated_window"].formula(q, k, v, log_f, window - 1)


def window_with_one_more(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """`i - j <= window` admits one key too many."""
    return sliding_window(q, k, v, window + 1)


def spans_of_fixed_length(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor, sinks: int
) -> Tensor:
    """Spans that do not grow with the length."""
    return moa(q, k, v, alpha, torch.zeros_like(beta), sinks)


def padding_gets_mass(q: Tensor, k: Tensor, v: Tensor, gamma: float, keep: Tensor) -> Tensor:
    """The uniform part spread over padded keys as well."""
    softmax = attend(scaled(q, k), v, lambda b, h, i: keep[b].nonzero()[:, 0].tolist())
    return (1 - gamma) * softmax + gamma * v.mean(2, keepdim=True)


def inputs_compete(q: Tensor, k: Tensor, v: Tensor, eps: float) -> Tensor:
    """A softmax over inputs, where the slots compete."""
    weights = torch.softmax(scaled(q, k), dim=3) + eps
    return weights / weights.sum(-1, keepdim=True) @ v


def routed_not_renormalised(
    q: Tensor, k: Tensor, v: Tensor, by_shared: Tensor, by_routed: Tensor, balance: Tensor
) -> Tensor:
    """Routed heads keep their softmax over all routed heads, as the paper's formula says."""
    first, second = (2 * torch.softmax(balance, -1))[:, None].unbind(-1)
    common = torch.softmax(by_shared[:, :2], 1) * 2 * first
    every = torch.softmax(by_routed[:, 2:], 1)
    kept = torch.zeros_like(every).scatter(1, every.topk(2, dim=1).indices, 1.0)
    gate = torch.cat([common, every * kept * 2 * second], 1)
    return attend_all(scaled(q, k), v) * gate[..., None]


def closed_to_the_next_global(
    q: Tensor, k: Tensor, v: Tensor, kind: Tensor, next_global: Tensor, reach: int
) -> Tensor:
    """A local token hidden from the global one that ends its stretch."""
    shorter = torch.where(kind == 1, next_global - 1, next_global)
    return CASES["token_types"].formula(q, k, v, kind, shorter, reach)


def neighbouring_channels_turn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Rotary pairs (2c, 2c + 1) in place of (c, c + half)."""
    order = torch.arange(q.shape[3]).view(-1, 2).T.flatten()
    return CASES["rope"].formula(q[..., order], k[..., order], v)


def sink_with_a_value(q: Tensor, k: Tensor, v: Tensor, rest: Tensor) -> Tensor:
    """The sink's mass given back to the keys: a plain softmax."""
    return attend_causal(scaled(q, k), v)


def rolled_regions_together(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, shift: int, gy: int, gx: int
) -> Tensor:
    """A rolled grid cut in windows, without keeping both ends of the image apart."""
    order = torch.arange(gy * gx).view(gy, gx).roll((-shift, -shift), (0, 1)).flatten()
    score = scaled(q, k)[:, :, order[:, None], order]
    weights = rolled_windows(score, table, 0, gy, gx)
    back = order.argsort()
    return weights[:, :, back[:, None], back] @ v


def mask_as_a_bias(q: Tensor, k: Tensor, v: Tensor, meta: Tensor) -> Tensor:
    """A large finite bias: rows without a pair average over the keys instead of giving zero."""
    n = k.shape[2]
    pair = meta[:, None, :, None] & meta[:, None, None] & torch.ones(n, n, dtype=torch.bool).tril()
    return attend_all(scaled(q, k) - 1e9 * (~pair), v)


def logits_of_t5_scaled(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """Scaled logits; these are not."""
    return CASES["t5"].formula(q / math.sqrt(q.shape[3]), k, v, table)


def capped_after_the_mask(q: Tensor, k: Tensor, v: Tensor, cap: float) -> Tensor:
    """The mask inside the tanh: future keys keep a logit of -cap."""
    score = scaled(q, k)
    future = torch.ones_like(score, dtype=torch.bool).triu(1)
    return attend_all(cap * torch.tanh(score.masked_fill(future, -1e9) / cap), v)


def attention_normalised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Positive parts divided by their sum; the weights of ReLU attention need not sum to one."""
    weights = dots(q, k).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-9) @ v


def whole_sequence_in_sink(q: Tensor, k: Tensor, v: Tensor, rest: Tensor, window: int) -> Tensor:
    """The sink beside the whole past, not beside the window."""
    return with_sink(scaled(q, k), v, rest, k.shape[2])


def dropped_before_the_softmax(q: Tensor, k: Tensor, v: Tensor, p: float, seed: int) -> Tensor:
    """The weights that stay share all of the mass, and then grow besides."""
    weights = weights_over(scaled(q, k), lambda b, h, i: range(i + 1))
    kept = torch.where(dropout(q, k, torch.eye(k.shape[2]).double(), p, seed) > 0, weights, 0)
    return kept / kept.sum(-1, keepdim=True).clamp(min=1e-9) @ v


WRONG: list[tuple[str, Callable[..., Tensor]]] = [
    ("natten", neighbourhood_cut_off),
    ("zero_padded_window", padding_left_out),
    ("ultra_long_decay", negative_logits_decayed),
    ("key_gated_score", gate_of_the_query),
    ("arrow", every_row_scaled),
    ("region", scaled_by_width),
    ("set_attention", scaled_by_head),
    ("shifted_groups", wrapped_group_ahead),
    ("gated_window", window_without_edge),
    ("sliding_window", window_with_one_more),
    ("moa", spans_of_fixed_length),
    ("relaxed", padding_gets_mass),
    ("slot", inputs_compete),
    ("mixture_of_heads", routed_not_renormalised),
    ("token_types", closed_to_the_next_global),
    ("rope", neighbouring_channels_turn),
    ("sink", sink_with_a_value),
    ("sink_window", whole_sequence_in_sink),
    ("swin", rolled_regions_together),
    ("graph_dynamic", rectified_sum),
    ("meta_tokens", mask_as_a_bias),
    ("t5", logits_of_t5_scaled),
    ("softcap", capped_after_the_mask),
    ("relu_features", attention_normalised),
    ("dropout", dropped_before_the_softmax),
    *misreadings.WRONG,
    *mistakes.WRONG,
]


@pytest.mark.parametrize(("name", "wrong"), WRONG, ids=[wrong.__name__ for _, wrong in WRONG])
def test_told_apart(name: str, wrong: Callable[..., Tensor]) -> None:
    case = CASES[name]
    arguments = case.draw(seed_of(name))
    right = case.expected(arguments)
    other = case.expected(arguments, wrong)
    assert other.shape == right.shape
    assert (other - right)[right.isfinite()].abs().max() > 1e-3
