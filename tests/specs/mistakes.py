"""Wrong readings of the formulas in `choices`, `features`, `pooling`, `readouts`, `streams`
and `vectors`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from tests.specs import choices, features, gates, pooling, readouts, vectors
from tests.specs.case import attend, joined, scaled
from tests.specs.positions import local
from torch import Tensor


def halves_at_once(q: Tensor, k: Tensor, v: Tensor, second: bool) -> Tensor:
    """Both halves asking at once: one mask for what are two calls."""
    once = choices.bipartite_halves
    return once(q, k, v, False) + once(q, k, v, True)


def shuffled_and_left(q: Tensor, k: Tensor, v: Tensor, place: Tensor, reach: int) -> Tensor:
    """The window over the order that tokens came in."""
    return local(q, k, v, reach)


def border_wraps_around(
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
    """The grid rolled by half a window: what the border cuts off joins the other end."""
    place, still = torch.arange(gy * gx).view(gy, gx), torch.zeros_like(down)
    heads = []
    for h in range(q.shape[1]):
        order = place.roll((-int(down[h]), -int(right[h])), (0, 1)).flatten()
        q_, k_, v_ = (x[:, :, order] for x in (q, k, v))
        out = choices.head_windows(q_, k_, v_, table, high, wide, still, still, gy, gx)
        heads.append(out[:, h, order.argsort()])
    return torch.stack(heads, 1)


def everyone_counts(
    q: Tensor, k: Tensor, v: Tensor, kept: Tensor, threshold: Tensor, sharpness: float
) -> Tensor:
    """Means over all tokens, the pruned ones too."""
    right = readouts.token_pruning(q, k, v, kept, threshold, sharpness)
    output, rating = right[: -kept.numel()], right[-kept.numel() :].view_as(kept)
    return joined([output, rating * kept.double().mean(1, keepdim=True)])


def queries_compete(q: Tensor, k: Tensor, v: Tensor, x: Tensor, metric: Tensor) -> Tensor:
    """One softmax for both ways: keys get what queries gave them, not a map of their own."""
    score = torch.einsum("bhid,hdf,bhjf->bhij", q, metric, k)
    weights = torch.softmax(score, -1)
    return joined([weights @ v, weights.mT @ x])


def streams_in_one_softmax(q: Tensor, k: Tensor, v: Tensor, visual: Tensor, open: Tensor) -> Tensor:
    """One softmax over both kinds of keys, gated afterwards."""
    weights = readouts.causal_map(q, k) * torch.where(
        visual[:, None, None], open[:, None, None], 1.0
    )
    return weights @ v


def blended_masks(
    q: Tensor, k: Tensor, v: Tensor, text: Tensor, fore: Tensor, target: Tensor
) -> Tensor:
    """Masks blended before one softmax, where two softmaxes are blended."""
    share = torch.where(fore[:, None], target[..., None], 1 - target[..., None])
    share = torch.where(text[:, None], 1.0, share)
    weights = share[:, None] * scaled(q, k).exp()
    return weights / weights.sum(-1, keepdim=True) @ v


def rows_wrap_around(
    q: Tensor, k: Tensor, v: Tensor, kernel: Tensor, wide: int, reach: Tensor
) -> Tensor:
    """A convolution over the flat tokens: the end of a row touches the next one's start."""
    right = pooling.convolutional_positions
    rows, n = [], v.shape[2]
    for h, around in enumerate(reach.tolist()):
        total = torch.zeros_like(v[:, h])
        for dy in range(-around, around + 1):
            for dx in range(-around, around + 1):
                at = torch.arange(n) + dy * wide + dx
                inside = (at > 0) & (at < n) & (torch.arange(n) > 0)
                taps = kernel[h, dy + 3, dx + 3] * inside[:, None]
                total = total + taps * v[:, h, at.clamp(0, n - 1)]
        rows.append(total)
    return right(q, k, v, kernel * 0, wide, reach) + q * torch.stack(rows, 1)


def one_choice_for_all_rows(
    q: Tensor, k: Tensor, v: Tensor, window: int, rate: Tensor, feature: Tensor
) -> Tensor:
    """The most important keys of the whole sequence, where each row chooses among its own past."""
    importance = torch.exp(rate[:, None] * torch.nn.functional.softplus(feature))
    best = importance.topk(window, -1).indices

    def keys(b: int, h: int, i: int) -> list[int]:
        return [j for j in best[b, h].tolist() if j <= i]

    return attend(scaled(q, k) + importance[:, :, None], v, keys)


def others_at_zero(q: Tensor, k: Tensor, v: Tensor, kept: int) -> Tensor:
    """The weights of a softmax over all keys, those of the others at zero and not shared out."""
    score = scaled(q, k).masked_fill(~torch.ones(q.shape[2], k.shape[2]).tril().bool(), -math.inf)
    weights = torch.softmax(score, -1)
    least = weights.topk(kept, -1).values[..., -1:]
    return weights.masked_fill(weights < least, 0.0) @ v


def largest_of_all_keys(q: Tensor, k: Tensor, v: Tensor, kept: int) -> Tensor:
    """The largest of a whole row, of which a query sees those that are not ahead of it."""
    score = scaled(q, k)
    best = score.topk(kept, -1).indices
    return attend(score, v, lambda b, h, i: [j for j in best[b, h, i].tolist() if j <= i])


def basis_not_thresholded(
    q: Tensor, k: Tensor, v: Tensor, *, share: float, basis: Tensor, least: float, **given: Tensor
) -> Tensor:
    """The second matrix as it is, negative entries and small ones too."""
    return _budget(q, k, v, choices.compressed(**given) @ basis, share)


def largest_logits(
    q: Tensor, k: Tensor, v: Tensor, *, share: float, **predictor: Tensor | float
) -> Tensor:
    """The largest logits, where a predictor chooses without them."""
    return _budget(q, k, v, scaled(q, k), share)


def _budget(q: Tensor, k: Tensor, v: Tensor, likely: Tensor, share: float) -> Tensor:
    n = k.shape[2]
    best = likely.argsort(-1, descending=True)[..., : math.ceil(share * n)]
    return attend(scaled(q, k), v, lambda b, h, i: best[b, h, i].tolist() if i else list(range(n)))


def emphasis_multiplied(q: Tensor, k: Tensor, v: Tensor, own: Tensor, emphasis: Tensor) -> Tensor:
    """Logits of reference keys multiplied by their weight, where the published code adds it."""
    factor = torch.where(own, torch.ones_like(emphasis), emphasis)
    score = scaled(q, k) * factor[:, None, None, :]

    def keys(b: int, h: int, i: int) -> list[int]:
        return (own[b] | (emphasis[b] != 0)).nonzero()[:, 0].tolist()

    return attend(score, v, keys)


def kept_heads_weighted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Kept heads weighted by the softmax that chose them, where they are on or off."""
    right = gates.norm_routed_heads(q, k, v)
    lengths = q.detach().norm(dim=-1)
    share = torch.softmax(lengths / lengths.std(1, keepdim=True), 1)
    share = torch.cat([torch.ones_like(share[:, :2]), share[:, 2:]], 1)
    return right * share[..., None]


def merging_normalised(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    x: Tensor,
    rest: Tensor,
    merge_in: Tensor,
    merge_out: Tensor,
    heat: Tensor,
    tau: float,
) -> Tensor:
    """Merged tokens as means, where they are plain sums."""
    n = x.shape[2]
    merges = (merge_in / n, merge_out / n)
    return pooling.gather_scatter(q, k, v, x, rest, *merges, heat, tau)


WRONG: list[tuple[str, Callable[..., Tensor]]] = [
    ("bipartite_halves", halves_at_once),
    ("talking_heads", vectors.mixed_once),
    ("vector_attention", vectors.weights_of_points),
    ("lightnet", vectors.whole_sequence_normalised),
    ("bidirectional_wkv", vectors.no_step_less),
    ("stochastic_window", shuffled_and_left),
    ("head_windows", border_wraps_around),
    ("hashed_linear", features.hashed_linear_self),
    ("hashed_linear_self", features.hashed_linear),
    ("token_pruning", everyone_counts),
    ("co_attention", queries_compete),
    ("modality_streams", streams_in_one_softmax),
    ("guided_sharing", blended_masks),
    ("convolutional_positions", rows_wrap_around),
    ("attention_free_local", features.attention_free_window),
    ("dynamic_mask", one_choice_for_all_rows),
    ("topk_attention", others_at_zero),
    ("topk_attention", largest_of_all_keys),
    ("sparsifiner", basis_not_thresholded),
    ("sparsifiner", largest_logits),
    ("reference_weights", emphasis_multiplied),
    ("norm_routed_heads", kept_heads_weighted),
    ("gather_scatter", merging_normalised),
]
