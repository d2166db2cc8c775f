"""Ranks of pairs: the cuts around the largest of a row, and the masks made of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.codegen.test_passes import CASES, PLAIN, SELF, fused, shown
from torch import Tensor

import attnspec
from attnspec.runtime.cpu_cuts import LEAST, _cuts, middle, order_tile
from attnspec.runtime.verify_rule import hold

DTYPES = (torch.float32, torch.float64)
NUMBERS = st.one_of(
    st.integers(-3, 3).map(float),
    st.sampled_from([math.inf, -math.inf, math.nan, -0.0, 1e-40]),
    st.floats(width=32),
)

FORMS = {
    "of a prefix": "mask j <= i\nmask topk(j, score, 5, where=j <= i)",
    "of all": "mask topk(j, score, 7)",
    "before another mask": "mask topk(j, score, 9)\nmask j <= i",
    "among the allowed of a head": (
        "input c[b, h, j]: bool\nmask topk(j, score, 3, where=c[j] and j <= i)"
    ),
    "of keys that are no range": "input c[b, j]\nmask topk(j, c[j], 5, where=(i - j) % 2 == 0)",
    "of the positions": "mask topk(j, (3 * i + 5 * j) % 7, 4, where=j <= i)",
    "of distances": "mask topk(j, -abs(i - 2 * j) / 3, 6)",
    "of what is equal": "input c[b, i]\nmask topk(j, c[i], 4, where=j % 3 != i % 3)",
    "of a given number": "input bias[b, i, j]\nmask topk(j, bias[i, j], 4)\nscore = bias[i, j]",
    "of other products": (
        "query q2[d]\nkey k2[d]\nmask topk(j, dot(q2[i], k2[j]), 4, where=abs(i - j) < 12)"
    ),
    "of what is summed over channels": "mask topk(j, -sum(d, abs(q[i, d] - k[j, d])), 4)",
    "as many as a head takes": "input most[h]: int\nmask topk(j, score, most, where=j <= i)",
    "as many as a query takes": (
        "input most[b, i]: int\nmask topk(j, score, most[i], where=j <= i + 3)"
    ),
    "a share": "input share = 0.3\nmask topk(j, score, share * (i + 1), where=j <= i)",
    "as many as there are": "mask topk(j, score, sum(j, 1, where=j * 2 <= i), where=j <= i)",
    "a rank that what is left out does not have": "mask rank(j, score, where=j <= i) < 6",
    "a rank of what is left out": "mask rank(j, score, where=j <= i) < 60",
    "all but the largest": "mask j <= i\nmask not topk(j, score, 3)",
    "up to a rank": "mask j <= i and rank(j, score, where=j <= i) <= (i + 1) / 3",
    "beyond a rank": "mask j <= i and 2 < rank(j, score, where=j <= i)",
    "one rank": "mask j <= i\nweight = where(rank(j, score) == i // 3, 1, 0.5) * softmax(score)",
    "all but one rank": "mask j <= i and rank(j, score, where=j <= i) != 1",
    "between two": (
        "mask j <= i\nlet place = rank(j, score, where=j <= i)\n"
        "weight = where(1 <= place < 4.5, softmax(score), 0)"
    ),
    "of the mean of the heads": (
        "index g = h\nmask j <= i\n"
        "mask topk(j, mean(g, dot(q[i, h=g], k[j, h=g])), 3, where=j <= i)"
    ),
    "in a weight": "mask j <= i\nweight = where(topk(j, score, 3), sigmoid(score), 0)",
    "over the queries": "mask topk(i, score, 4, where=j <= i)",
    "on both sides": "mask topk(j, score, 6) and topk(i, score, 6)",
    "of weights": (
        "let first = softmax(score)\nmask topk(j, stopgrad(first), 4)\n"
        "return map[b, h, i, j] = weight\nreturn mass[b, h, j] = sum(i, weight)"
    ),
    "in tiles of one remainder": "mask i % 3 == j % 3\nmask topk(j, score, 4, where=j <= i)",
    "of documents": "input doc[b, n]: int\nmask topk(j, score, 3, where=doc[i] == doc[j])",
}
MORE = {name: CASES[name] for name in ("plain", "self", "empty", "one", "half", "started")}
MORE |= {
    "double": replace(SELF, dtype="float64"),
    "zeros": replace(PLAIN, fill="zeros"),
    "not a number": replace(SELF, fill="nan_query"),
    "unseen": replace(SELF, fill="unseen_nan"),
}


@pytest.mark.parametrize("case", MORE)
@pytest.mark.parametrize("name", FORMS)
def test_ranks_of_pairs_give_what_is_defined(name: str, case: str) -> None:
    outcome = hold(fused(FORMS[name]), MORE[case], "cpu")
    assert not outcome.problems, outcome.problems


def test_one_pass_finds_all_cuts() -> None:
    attention = fused(FORMS["of a prefix"])
    assert shown(attention) == ["cuts ij", "vector ij softmax"]
    assert [p.constant for p in attention.plan.passes] == [True, False]


def chosen(scores: Tensor, cuts: Tensor, start: int = 0) -> Tensor:
    """Which scores [.., m, n] are above the cuts [.., m, 3]."""
    order: Tensor = order_tile(scores)
    at = torch.arange(scores.shape[-1]) + start
    above, equal, last = cuts.split(1, -1)
    found: Tensor = (order > above) | ((order > equal) & (at <= last))
    return found


def cuts(scores: Tensor, keep: Tensor, most: int, start: int = 0) -> Tensor:
    every = torch.where(keep, order_tile(scores), LEAST)
    return _cuts(every, torch.tensor([[most]]), scores.dtype, start)


@given(
    pairs=st.lists(st.tuples(NUMBERS, st.booleans()), max_size=12),
    most=st.integers(-1, 13),
    start=st.integers(0, 2),
    dtype=st.sampled_from(DTYPES),
)
def test_cuts_are_around_the_first_of_a_stable_sort(
    pairs: list[tuple[float, bool]], most: int, start: int, dtype: torch.dtype
) -> None:
    scores = torch.tensor([[x for x, _ in pairs]], dtype=dtype).view(1, -1)
    keep = torch.tensor([[yes for _, yes in pairs]], dtype=torch.bool).view(1, -1)
    found = chosen(scores, cuts(scores, keep, most, start), start) & keep
    order = scores[0].sort(descending=True, stable=True).indices
    want = [int(j) for j in order if keep[0, j]][: max(most, 0)]
    assert found[0].nonzero()[:, 0].tolist() == sorted(want)


@given(
    places=st.lists(st.integers(-9, 9), min_size=1, max_size=12),
    most=st.integers(1, 12),
    noise=st.integers(0, 2**32),
    dtype=st.sampled_from(DTYPES),
)
def test_another_rounding_makes_no_difference(
    places: list[int], most: int, noise: int, dtype: torch.dtype
) -> None:
    """Of numbers that are further apart, and of equal ones, 0 among them."""
    scores = torch.tensor([places], dtype=dtype) / 3
    found = cuts(scores, torch.ones_like(scores, dtype=torch.bool), most)
    generator = torch.Generator().manual_seed(noise)
    other = torch.randn(scores.shape, generator=generator, dtype=dtype).clamp(-4, 4) * 1e-2
    assert torch.equal(chosen(scores, found), chosen(scores + other, found))
    assert int(chosen(scores + other, found).sum()) == min(most, len(places))


@given(low=NUMBERS, high=NUMBERS, dtype=st.sampled_from(DTYPES))
def test_the_middle_is_below_the_higher(low: float, high: float, dtype: torch.dtype) -> None:
    ends = order_tile(torch.tensor([low, high], dtype=dtype)).sort().values
    found = middle(ends[:1], ends[1:], dtype)
    assert ends[0] <= found
    assert found < ends[1] or ends[0] == ends[1]


def test_an_order_is_that_of_the_numbers() -> None:
    for dtype in DTYPES:
        x = torch.tensor(
            [-math.inf, -2.0, -1e-30, 0.0, 1e-30, 3.0, math.inf, math.nan], dtype=dtype
        )
        order = order_tile(x)
        assert bool((order.diff() > 0).all())
        assert bool((order > LEAST).all())
        assert order_tile(torch.tensor([-0.0], dtype=dtype)) == order[3]
        assert order_tile(-torch.tensor([math.nan], dtype=dtype)) == order[7]


@pytest.mark.parametrize("most", [0, 1, 5, 40, 300])
def test_every_row_has_as_many_as_it_may(most: int) -> None:
    text = "input most: int\nmask topk(j, score, most, where=j <= i)"
    attention = fused(f"{text}\nreturn map[b, h, i, j] = weight")
    torch.manual_seed(most)
    q, k, v = (torch.randn(1, 2, 200, 16) for _ in range(3))
    _, extras = attention(q, k, v, most=most, extras=True)
    counts = (extras["map"] > 0).sum(-1)
    assert torch.equal(counts, (torch.arange(200) + 1).clamp(max=most).expand_as(counts))


@pytest.mark.parametrize("form", ["{0} {1} c[i]", "{0} {1} c[i] and j >= 0", "c[i] {1} {0}"])
@pytest.mark.parametrize("order", ["<", "<=", ">", ">=", "==", "!="])
@pytest.mark.parametrize("where", ["", ", where=j != i"])
def test_any_number_is_a_limit(form: str, order: str, where: str) -> None:
    mask = f"mask {form.format(f'rank(j, score{where})', order)}\nweight = 1"
    limits: dict[str, list[float]] = {
        "float": [math.inf, -math.inf, math.nan, 1e30, -1e30, 7.5, 7.0, 6.0, 2.5, -0.5],
        "int": [2**63 - 1, -(2**63), 2**62, 8, 7, 6, 3, 0, -1],
    }
    for kind, numbers in limits.items():
        attention = attnspec.compile(f"attention a\ninput c[b, i]: {kind}\n{mask}")
        given: dict[str, Any] = {
            x: torch.ones(1, 1, n, 4) for x, n in zip("qkv", (len(numbers), 7, 7), strict=True)
        }
        given["c"] = torch.tensor([numbers])
        got = attention(**given, backend="cpu")
        assert torch.equal(got.double(), attention.reference(**given)), kind


@pytest.mark.parametrize(
    "mask",
    [
        "rank(j, score) < rank(j, norm(k[j]))",
        "rank(j, score) <= rank(j, -score)",
        "rank(j, -norm(q[i] - k[j])) == rank(j, score)",
        "rank(j, score) <= rank(i, norm(q[i]))",
        "rank(i, norm(q[i])) > rank(j, score)",
    ],
)
def test_two_ranks(mask: str) -> None:
    attention = attnspec.compile(f"attention a\nmask {mask}\nweight = 1")
    given: dict[str, Any] = {x: torch.randn(1, 2, 7, 4) for x in "qkv"}
    got = attention(**given, backend="cpu")
    torch.testing.assert_close(got.double(), attention.reference(**given), rtol=1e-5, atol=1e-5)


def test_a_rank_compared_with_what_depends_on_the_same_token() -> None:
    text = "input c[b, j]: int\nmask topk(j, score, c[j])"
    *_, stage = attnspec.compile(f"attention a\n{text}").plan.stages
    assert stage.why == "a rank compared with what depends on the same token"
