"""The reference against FlexAttention's eager path, an implementation by other people."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.runtime.conftest import agree, random_leaf, run
from torch import Tensor
from torch.nn.attention import flex_attention as flex

B, H, N, D, E = 2, 4, 10, 8, 6

Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def _backward_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its eager path can differentiate on a CPU; only a check of the device refuses."""
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)


def hold(
    text: str,
    score: Score | None,
    mask: Mask | None,
    more: dict[str, Any] | None = None,
    *,
    heads: int = H,
    m: int = N,
) -> None:
    """Output, log-sum-exp and every gradient of both."""
    more = more or {}
    q, k = random_leaf(B, H, m, D), random_leaf(B, heads, N, D)
    v = random_leaf(B, heads, N, E)
    blocks = None
    if mask is not None:
        blocks = flex.create_block_mask(mask, B, H, m, N, device="cpu", BLOCK_SIZE=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want, aux = flex.flex_attention(
            q,
            k,
            v,
            score_mod=score,
            block_mask=blocks,
            enable_gqa=heads != H,
            return_aux=flex.AuxRequest(lse=True),
        )
    got = run(text, q=q, k=k, v=v, **more)
    leaves = [q, k, v, *(x for x in more.values() if isinstance(x, Tensor) and x.requires_grad)]
    assert got.output is not None
    assert aux.lse is not None
    both = torch.cat([got.output, got.extras["lse"][..., None]], -1)
    agree(both, torch.cat([want, aux.lse[..., None]], -1), leaves)


def test_plain_and_causal() -> None:
    hold("mask true", None, None, m=4)
    hold("mask j <= i", None, lambda b, h, i, j: j <= i)


def test_window_under_grouped_heads() -> None:
    hold("mask abs(i - j) <= 2", None, lambda b, h, i, j: (i - j).abs() <= 2, heads=2)


def test_documents() -> None:
    doc = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    hold(
        "input doc[n]: int\nmask doc[i] == doc[j] and j <= i",
        None,
        lambda b, h, i, j: (doc[i] == doc[j]) & (j <= i),
        {"doc": doc},
    )


def test_alibi() -> None:
    slope = torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=torch.float64)
    hold(
        "input slope[h]\nmask j <= i\nscore = dot(q[i], k[j]) / sqrt(D) - slope * (i - j)",
        lambda s, b, h, i, j: s - slope[h] * (i - j),
        lambda b, h, i, j: j <= i,
        {"slope": slope},
    )


def test_softcap() -> None:
    hold(
        "score = 3 * tanh(dot(q[i], k[j]) / sqrt(D) / 3)",
        lambda s, b, h, i, j: 3 * torch.tanh(s / 3),
        None,
    )


def test_table_of_offsets_with_gradient() -> None:
    table = random_leaf(H, 2 * N - 1)
    hold(
        f"param table[h, {2 * N - 1}] = 0\nrequire i < {N} and j < {N}\n"
        f"score = dot(q[i], k[j]) / sqrt(D) + table[i - j + {N - 1}]",
        lambda s, b, h, i, j: s + table[h, i - j + N - 1],
        None,
        {"table": table},
    )


def test_rows_without_a_key() -> None:
    hold("mask i % 3 > 0 and j <= i", None, lambda b, h, i, j: (i % 3 > 0) & (j <= i))


def test_neighbourhood_on_a_grid() -> None:
    hold(
        "grid y, x\nmask abs(i.y - j.y) + abs(i.x - j.x) <= 2",
        None,
        lambda b, h, i, j: (i // 5 - j // 5).abs() + (i % 5 - j % 5).abs() <= 2,
        {"GY": 2, "GX": 5},
    )
