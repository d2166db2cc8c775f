"""Wrong readings of the formulas in `places`, `mixers`, `chains`, `branches`, `twice`, ...."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from tests.specs import branches, chains, mixers, places, relative, running, summaries, twice
from tests.specs.case import attend, attend_all, dots, scaled
from tests.specs.scores import rotate
from torch import Tensor


def distances_without_buckets(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    reach: int,
    keep: Tensor,
    to_place: Tensor,
    from_place: Tensor,
) -> Tensor:
    """Distances clipped at the table's ends instead of falling into logarithmic buckets."""
    n = k.shape[2]
    score = places.disentangled(q, k, to_place, from_place, {r: r for r in range(-n, n)})
    return places.arrow(score, v, reach, keep)


def last_block_masked(q: Tensor, k: Tensor, v: Tensor, here: Tensor, before: Tensor) -> Tensor:
    """A window of one block's length, where all of the block before is in view."""
    n = k.shape[2]
    gap = torch.arange(n)[:, None] - torch.arange(n)
    own = torch.einsum("bhid,hijd->bhij", q, here[:, gap.clamp(0, 63)])
    last = torch.einsum("bhid,hijd->bhij", q, before[:, (gap - 1).clamp(0, 126)])
    block = torch.arange(n) // 64
    score = dots(q, k) + torch.where(block[:, None] == block, own, last)
    score = score / math.sqrt(q.shape[3])
    return attend(score, v, lambda b, h, i: range(max(0, i - 63), i + 1))


def blocks_of_the_coarse_grid(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    columns: Tensor,
    gy_i: int,
    gx_i: int,
    gy_j: int,
    gx_j: int,
) -> Tensor:
    """Blocks counted in queries: a block of 8 queries is 16 keys wide."""
    y, x = torch.arange(gy_i * gx_i) // gx_i, torch.arange(gy_i * gx_i) % gx_i
    score = places.halo_score(q, k, rows, columns, 2 * y * gx_j + 2 * x, gx_j)

    def keys(b: int, h: int, i: int) -> list[int]:
        top, left = int(y[i]) // 8 * 16, int(x[i]) // 8 * 16
        seen_y = range(max(0, top - 3), min(gy_j, top + 19))
        seen_x = range(max(0, left - 3), min(gx_j, left + 19))
        return [r * gx_j + c for r in seen_y for c in seen_x]

    return attend(score, v, keys)


def ends_wrapped(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q2: Tensor,
    k2: Tensor,
    v2: Tensor,
    keep: Tensor,
    gs: int,
    go: int,
) -> Tensor:
    """Ends counted modulo the number of tokens, as a roll of the band does."""
    right = places.span_plus(q, k, v, q2, k2, v2, keep, gs, go)
    offset = torch.arange(gs * go) % go
    end = (torch.arange(gs * go) // go + offset) % gs
    turned = [rotate(x, offset.double()) for x in (q2, k2)]

    def keys(b: int, h: int, i: int) -> list[int]:
        return ((end == end[i]) & keep[b] & keep[b, i]).nonzero()[:, 0].tolist()

    wrapped = attend(scaled(*turned), v2, keys)
    return torch.cat([right[..., : v.shape[3]], wrapped], -1)


def rotated_to_both_sides(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys after the query turned the other way, as they come."""
    at = torch.arange(q.shape[2]).double()
    return attend_all(scaled(rotate(q, at), rotate(k, at)), v)


def blocks_for_cells(v: Tensor, z: Tensor, mix: Tensor, bias: Tensor, gy: int, gx: int) -> Tensor:
    """Neighbours mixed, where the tokens of a dilated grid are."""
    return mixers.block_gating(v, z, mix, bias, gy, gx)


WRONG: list[tuple[str, Callable[..., Tensor]]] = [
    ("arrow_disentangled", distances_without_buckets),
    ("relative_local", last_block_masked),
    ("halo", places.halo_with_padding),
    ("halo_downsampled", blocks_of_the_coarse_grid),
    ("span_plus", ends_wrapped),
    ("bidirectional_rope", rotated_to_both_sides),
    ("grid_gating", blocks_for_cells),
    ("gaussian_gate", mixers.normalised_by_channel),
    ("squeeze_excitation", mixers.each_head_alone),
    ("subspace_gate", mixers.pooled_with_zeros),
    ("channel_attention", chains.tokens_unnormalised),
    ("channel_groups", chains.channel_roles_of_the_paper),
    ("partial_merge", chains.shards_averaged),
    ("visual_redistribution", branches.every_row_redistributed),
    ("leading_queries", branches.leading_keys),
    ("repeated_tokens", branches.its_own_repetition),
    ("modality_gate", branches.modalities_together),
    ("convex_decay", branches.own_gate_decays),
    ("bidirectional_reading", twice.written_normalised),
    ("reversed_attention", twice.parents_choose),
    ("sink_calibration", twice.sinks_of_column_sums),
    ("dual_softmax", twice.one_way_match),
    ("flow", twice.no_competition),
    ("span_summaries", twice.means_of_spans),
    ("region_routing", twice.heads_route_alone),
    ("sparse_queries", twice.largest_logits_alone),
    ("flow_causal", summaries.competition_with_all),
    ("decayed_features", summaries.norm_of_one_head),
    ("learned_blocks", summaries.own_block_dropped),
    ("bounded_memory", summaries.one_map_for_both),
    ("compressed_and_window", summaries.sources_apart),
    ("deberta", relative.one_distance_for_both),
    ("transformer_xl", relative.one_vector_for_both),
    ("shaw", relative.distances_dropped),
    ("shaw_values", relative.values_turned),
    ("stick_breaking", running.sticks_from_the_start),
    ("threshold_relative", running.plain_distances),
    ("contextual_position", running.whole_positions),
]
