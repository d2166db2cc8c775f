"""Ranks among what a query may see: cut-offs on the host, and the masks made of them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch

import attnspec
from attnspec.runtime.host_functions import cutoff
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

SIZES = (("b", 2), ("h", 4), ("heads", 2), ("i", 33), ("j", 41), ("d", 4), ("e", 6))
PLAIN = Case(SIZES, 3, 0, "float32", "contiguous", "normal", 7)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 33, 64])
def test_cutoffs_by_search(size: int) -> None:
    rng = Random(size)
    start = rng.choice((0, 5))
    place = torch.stack([torch.randperm(size) for _ in range(6)]).view(2, 3, size)
    first = torch.randint(start - 3, start + size + 3, (2, 1, 20))
    last = torch.randint(start - 3, start + size + 3, (1, 3, 20))
    count = torch.randint(-1, size + 3, (2, 1, 1))
    found = cutoff(place, count, first, last, start)
    assert found.shape == (2, 3, 20)
    for b in range(2):
        for h in range(3):
            for i in range(20):
                low, high = int(first[b, 0, i]) - start, int(last[0, h, i]) - start
                seen = sorted(int(place[b, h, j]) for j in range(size) if low <= j <= high)
                left_out = seen[max(int(count[b, 0, 0]), 0) :]
                assert int(found[b, h, i]) == (left_out[0] if left_out else size)


def test_a_cutoff_without_limits() -> None:
    place = torch.tensor([[2, 0, 3, 1]])
    assert cutoff(place, 2, None, None, 0).tolist() == [[2]]
    assert cutoff(place, 4, None, None, 0).tolist() == [[4]]
    assert cutoff(place, 1, torch.tensor([[0, 1, 3]]), None, 0).tolist() == [[1, 1, 4]]
    assert cutoff(torch.empty(1, 0), 1, torch.tensor([[0, 1]]), None, 0).tolist() == [[0, 0]]


RANKS = {
    "of a prefix": "input c[b, h, j]\nmask topk(j, c[j], 5, where=j <= i)",
    "of a window": "input c[b, j]\nmask topk(j, c[j], 3, where=0 <= i - j and i - j < 9)",
    "of what is to come": "input c[j]\nmask topk(j, c[j], 4, where=j >= i)",
    "of a block": "input c[h, j]\nmask topk(j, c[j], 2, where=i // 8 == j // 8)",
    "as many as a query asks for": (
        "input c[b, h, j]\ninput most[b, i]: int\nmask topk(j, c[j], most[i], where=j <= i)"
    ),
    "a rank of what is left out": "input c[b, j]\nmask rank(j, c[j], where=j <= i) < 50",
    "a rank that what is left out does not have": (
        "input c[b, j]\nmask rank(j, c[j], where=j <= i) < 5"
    ),
    "in tiles of one remainder": (
        "input c[b, h, j]\nmask i % 3 == j % 3\nmask topk(j, c[j], 4, where=j <= i)"
    ),
    "in a weight": (
        "input c[h, j]\nmask j <= i\n"
        "weight = where(topk(j, c[j], 3, where=j <= i), sigmoid(score), 0)"
    ),
    "over the queries": "input r[b, i]\nmask topk(i, r[i], 4, where=i >= j)",
    "beside another mask": (
        "input c[b, h, j]\nmask topk(j, c[j], 5, where=j <= i)\nmask i - j < 12 or j % 5 == 0"
    ),
}
TIES = "input c[b, j]: int\nmask topk(j, c[j] % 3, 4, where=j <= i)"


@pytest.mark.parametrize("text", [*RANKS.values(), TIES], ids=[*RANKS, "ties"])
@pytest.mark.parametrize("case", [PLAIN, replace(PLAIN, q_start=0, k_start=9, dtype="float64")])
def test_ranks_hold(text: str, case: Case) -> None:
    attention = attnspec.compile(f"attention a\n{text}")
    assert attention.plan.fused, attention.plan.stages
    outcome = hold(attention, case, "cpu")
    assert not outcome.problems, outcome.problems


def test_a_rank_in_a_range_takes_no_pass() -> None:
    """Among keys that are no range, it takes one over the pairs."""
    for where, forms in (("j <= i", ["vector"]), ("(i - j) % 2 == 0", ["cuts", "vector"])):
        text = f"attention a\ninput c[b, j]\nmask topk(j, c[j], 5, where={where})"
        assert [p.form for p in attnspec.compile(text).plan.passes] == forms


def test_a_rank_below_a_number_that_is_no_integer() -> None:
    text = "input c[b, j]\ninput most = 2.5\nmask topk(j, c[j], most, where=j <= i)"
    outcome = hold(attnspec.compile(f"attention a\n{text}"), PLAIN, "cpu")
    assert not outcome.problems, outcome.problems
