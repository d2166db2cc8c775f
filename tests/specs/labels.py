"""Formulas of the specs whose mask reads what tokens are: documents, images, padding, graphs."""

from __future__ import annotations

import math

import torch
from tests.specs.case import Case, Draw, attend, scaled
from tests.specs.positions import causal, per_group
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def cross_padded(q: Tensor, k: Tensor, v: Tensor, keep_q: Tensor, keep_k: Tensor) -> Tensor:
    # Pack the real tokens of each sequence, attend, and put the rows back.
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for b in range(q.shape[0]):
        rows, keys = keep_q[b].nonzero()[:, 0], keep_k[b].nonzero()[:, 0]
        out[b, :, rows] = scaled_dot_product_attention(q[b, :, rows], k[b, :, keys], v[b, :, keys])
    return out


def padded(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, attn_mask=keep[:, None, None, :])


def prefix_lm(q: Tensor, k: Tensor, v: Tensor, prefix: Tensor) -> Tensor:
    return attend(scaled(q, k), v, lambda b, h, i: range(max(i + 1, int(prefix[b]))))


def prefix_documents(q: Tensor, k: Tensor, v: Tensor, pre: Tensor, segment: Tensor) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        mine = [j for j in range(k.shape[2]) if segment[b, j] == segment[b, i]]
        return [j for j in mine if j <= i or (pre[b, i] and pre[b, j])]

    return attend(scaled(q, k), v, keys)


def documents(q: Tensor, k: Tensor, v: Tensor, doc: Tensor) -> Tensor:
    return per_group(q, k, v, doc)


def causal_documents(q: Tensor, k: Tensor, v: Tensor, doc: Tensor) -> Tensor:
    return per_group(q, k, v, doc, causal)


def region(q: Tensor, k: Tensor, v: Tensor, region: Tensor) -> Tensor:
    heads, width = q.shape[1], q.shape[3]
    return per_group(q * math.sqrt(width / heads), k, v, region)


def object_prompts(q: Tensor, k: Tensor, v: Tensor, object_q: Tensor, object_k: Tensor) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        return [j for j in range(k.shape[2]) if object_k[b, j] == object_q[b, i]]

    return attend(scaled(q, k), v, keys)


def graph(q: Tensor, k: Tensor, v: Tensor, adjacent: Tensor) -> Tensor:
    return attend(scaled(q, k), v, lambda b, h, i: adjacent[b, i].nonzero()[:, 0].tolist())


def chunk_memory(q: Tensor, k: Tensor, v: Tensor, chunk: Tensor, memory: Tensor) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        own = [j for j in range(k.shape[2]) if chunk[b, j] == chunk[b, i]]
        past = [j for j in range(k.shape[2]) if chunk[b, j] < chunk[b, i] and memory[b, j]]
        return own + past

    return attend(scaled(q, k), v, keys)


def meta_tokens(q: Tensor, k: Tensor, v: Tensor, meta: Tensor) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        return [j for j in range(i + 1) if meta[b, i] and meta[b, j]]

    return attend(scaled(q, k), v, keys)


def token_types(
    q: Tensor, k: Tensor, v: Tensor, kind: Tensor, next_global: Tensor, reach: int
) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        def last_reader(j: int) -> int:
            return (i, int(next_global[b, h, j]), j + reach)[int(kind[b, h, j])]

        return [j for j in range(i + 1) if i <= last_reader(j)]

    return attend(scaled(q, k), v, keys)


def mixed_modal(q: Tensor, k: Tensor, v: Tensor, image: Tensor) -> Tensor:
    def keys(b: int, h: int, i: int) -> set[int]:
        seen = set(range(i + 1))
        if image[b, i] != 0:
            seen |= set((image[b] == image[b, i]).nonzero()[:, 0].tolist())
        return seen

    return attend(scaled(q, k), v, keys)


def modality_mutual(
    q: Tensor, k: Tensor, v: Tensor, image: Tensor, question: Tensor, keep: Tensor
) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        seen = set(range(i + 1))
        if image[b, i]:
            seen |= set(question[b].nonzero()[:, 0].tolist())
        return [j for j in sorted(seen) if keep[b, j]]

    return attend(scaled(q, k), v, keys)


def composite(q: Tensor, k: Tensor, v: Tensor, visual: Tensor) -> Tensor:
    # The rows are the last ones of the whole sequence of visual and text tokens.
    skipped = k.shape[2] - q.shape[2]

    def keys(b: int, h: int, i: int) -> list[int]:
        return [j for j in range(k.shape[2]) if visual[b, j] or j <= skipped + i]

    return attend(scaled(q, k), v, keys)


def visual_exit(q: Tensor, k: Tensor, v: Tensor, left: Tensor, visual: Tensor) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        return [j for j in range(i + 1) if not (left[b] and visual[b, j])]

    return attend(scaled(q, k), v, keys)


def isolation(q: Tensor, k: Tensor, v: Tensor, subject: Tensor) -> Tensor:
    def keys(b: int, h: int, i: int) -> list[int]:
        mine = int(subject[b, i])
        n = k.shape[2]
        return [j for j in range(n) if mine == 0 or int(subject[b, j]) in (0, mine)]

    return attend(scaled(q, k), v, keys)


def reference_weights(q: Tensor, k: Tensor, v: Tensor, own: Tensor, emphasis: Tensor) -> Tensor:
    extra = torch.where(own, torch.zeros_like(emphasis), emphasis)
    score = scaled(q, k) + extra[:, None, None, :]

    def keys(b: int, h: int, i: int) -> list[int]:
        return [j for j in range(k.shape[2]) if own[b, j] or emphasis[b, j] != 0]

    return attend(score, v, keys)


def _sorted_ids(draw: Draw, count: int) -> Tensor:
    return draw.ints(0, count, draw.b, draw.n).sort(dim=1).values


def _next_global(kind: Tensor) -> Tensor:
    """For each token the first global one (kind 0) at or after it, the length if there is none."""
    n = kind.shape[-1]
    following = torch.full_like(kind, n)
    following[kind == 0] = torch.arange(n).expand_as(kind)[kind == 0]
    return following.flip(-1).cummin(-1).values.flip(-1)


def _token_types(draw: Draw) -> dict[str, Tensor | int | float]:
    kind = draw.ints(0, 3, draw.b, draw.h, draw.n)
    return {"kind": kind, "next_global": _next_global(kind), "reach": 2}


def _emphasis(draw: Draw) -> dict[str, Tensor | int | float]:
    weights = draw.normal(draw.b, draw.n) * draw.flags(0.6, draw.b, draw.n)
    return {"own": draw.flags(0.3, draw.b, draw.n), "emphasis": weights}


def kept_tokens(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    return cross_padded(q, k, v, keep, keep)


CASES = {
    "cross_padded": Case(
        cross_padded,
        lambda r: {"keep_q": r.flags(0.7, r.b, r.m), "keep_k": r.flags(0.7, r.b, r.n)},
        m=7,
        n=12,
    ),
    "padded": Case(padded, lambda r: {"keep": torch.arange(r.n) < torch.tensor([[7], [r.n]])}),
    "prefix_lm": Case(prefix_lm, lambda r: {"prefix": torch.tensor([0, 5])}),
    "prefix_documents": Case(
        prefix_documents,
        lambda r: {"pre": r.flags(0.5, r.b, r.n), "segment": _sorted_ids(r, 3)},
    ),
    "documents": Case(documents, lambda r: {"doc": r.ints(0, 4, r.b, r.n)}),
    "causal_documents": Case(causal_documents, lambda r: {"doc": _sorted_ids(r, 4)}),
    "packed": Case(causal_documents, lambda r: {"doc": _sorted_ids(r, 4)}),
    "region": Case(region, lambda r: {"region": r.ints(0, 5, r.b, r.n)}),
    "object_prompts": Case(
        object_prompts,
        lambda r: {"object_q": r.ints(0, 4, r.b, r.m), "object_k": r.ints(1, 4, r.b, r.n)},
        n=6,
    ),
    "graph": Case(graph, lambda r: {"adjacent": r.flags(0.2, r.b, r.m, r.n)}),
    "chunk_memory": Case(
        chunk_memory,
        lambda r: {"chunk": _sorted_ids(r, 4), "memory": r.flags(0.4, r.b, r.n)},
    ),
    "meta_tokens": Case(meta_tokens, lambda r: {"meta": r.flags(0.4, r.b, r.n)}),
    "token_types": Case(token_types, _token_types),
    "mixed_modal": Case(mixed_modal, lambda r: {"image": _sorted_ids(r, 3)}),
    "modality_mutual": Case(
        modality_mutual,
        lambda r: {
            "image": torch.arange(r.n).expand(r.b, -1) < 4,
            "question": (torch.arange(r.n).expand(r.b, -1) // 3) == 2,
            "keep": r.flags(0.8, r.b, r.n),
        },
    ),
    "composite": Case(
        composite,
        lambda r: {"visual": r.flags(0.5, r.b, r.n)},
        m=6,
        n=11,
        q_start=5,
    ),
    "visual_exit": Case(
        visual_exit,
        lambda r: {"left": torch.tensor([False, True]), "visual": r.flags(0.5, r.b, r.n)},
    ),
    "isolation": Case(isolation, lambda r: {"subject": r.ints(0, 4, r.b, r.n)}),
    "reference_weights": Case(reference_weights, _emphasis, n=14),
    "kept_tokens": Case(kept_tokens, lambda r: {"keep": r.flags(0.6, r.b, r.n)}),
}
