"""Reductions and normalisers over channels of a pair: in a tile, no tensor for every pair."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.codegen.test_passes import PLAIN, SELF, SIZES, fused

from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

CASES = {
    "plain": PLAIN,
    "self": SELF,
    "no keys": replace(SELF, sizes=tuple((n, 0 if n == "j" else s) for n, s in SIZES)),
    "started": replace(PLAIN, q_start=4, k_start=2),
    "half": replace(SELF, dtype="float16"),
    "unseen": replace(SELF, fill="unseen_nan"),
}
HEAD = "axis c = 8\nquery x[c]\nkey y[c]\nparam w[h, c] = 0.4\nmask j <= i\n"
SCORE = f"{HEAD}score = dot(q[i], k[j]) / sqrt(D) + "
POINTS = "axis p = 3\naxis c = 4\ninput at[b, n, p]\ninput shift[c, p]\nmask j <= i\n"

TEXTS = {
    "a log-sum-exp": f"{SCORE}logsumexp(c, x[i] * y[j])",
    "a log-sum-exp of some": f"{SCORE}where(i == j, 0, logsumexp(c, x[i] + y[j], where=c < 3))",
    "a softmax": f"{SCORE}sum(c, softmax(x[i] * y[j], over=c) * tanh(x[i] + y[j]))",
    "a softmax with a sink": f"{SCORE}dot(w, softmax(x[i] * y[j], over=c, sink=0.3))",
    "a function of a softmax": f"{SCORE}sum(c, relu(softmax(x[i] * y[j], over=c) - 0.1) * x[i])",
    "a normalised vector": f"{SCORE}dot(w, normalize(x[i] + y[j]))",
    "a function of a normalised vector": f"{SCORE}dot(w, relu(rmsnorm(x[i] + y[j])))",
    "a mean": f"{SCORE}mean(c, tanh(x[i] * y[j]))",
    "a mean of some": f"{SCORE}mean(c, tanh(x[i] * y[j]), where=x[i] > 0)",
    "the largest": f"{SCORE}amax(c, x[i] + y[j])",
    "the least of some": f"{SCORE}where(i == j, 0, amin(c, sin(x[i] + y[j]), where=c % 2 == 0))",
    "the place of the largest": f"{SCORE}w[argmax(c, x[i] + y[j])]",
    "a product of tokens in every term": (
        f"{SCORE}sum(c, tanh(x[i] * dot(q[i], k[j]) / sqrt(D) + y[j]))"
    ),
    "channels as numbers": f"{SCORE}sum(c, exp(-(c + 1) * (i - j) / 8))",
    "a mask": f"{HEAD}mask amax(c, x[i] + y[j]) > -1 or i == j",
    "two layers": (
        "axis c\naxis g = 4\nquery x[c]\nkey y[c]\nparam W[c, g] = 0.3\nparam u[g] = 0.5\n"
        "score = dot(q[i], k[j]) / sqrt(D) + dot(u, tanh(tanh(x[i] + y[j]) @ W))"
    ),
    "distances of points": (
        f"{POINTS}score = dot(q[i], k[j]) / sqrt(D) + sum(c, exp(-norm(at[j] + shift - at[i])))"
    ),
    "images of points": (
        f"{POINTS}param mix[c, e] = 0.2\nlet near[i, j, c] = -norm2(at[j] + shift - at[i])\n"
        "score = dot(q[i], k[j]) / sqrt(D) + logsumexp(c, near)\n"
        "value = v[j] + softmax(near, over=c) @ mix"
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TEXTS)
def test_what_it_gives(name: str, case: str) -> None:
    outcome = hold(fused(TEXTS[name]), CASES[case], "cpu")
    assert not outcome.problems, outcome.problems


def test_vectors_that_no_pair_has() -> None:
    """A layer on a vector of a pair is one on what the weights of the vectors add up to."""
    found = fused(TEXTS["images of points"]).plan.passes
    assert sorted((p.form, p.lanes) for p in found) == [("number", ("c",)), ("vector", ())]


def test_a_derivative_that_only_the_backward_needs() -> None:
    attention = fused(TEXTS["a function of a normalised vector"])
    sums = attention.plan.passes[0].sums
    assert [part.backward for part in sums] == [False, True]
    forward = attention.source.partition("def backward_rows")[0]
    assert sums[-1].name not in forward.split()


def test_the_first_of_equal_numbers_has_the_gradient() -> None:
    attention = fused(TEXTS["the largest"])
    q, k, v = (torch.ones(1, 1, 3, 4) for _ in range(3))
    x, y = (torch.zeros(1, 1, 3, 8, requires_grad=True) for _ in range(2))
    attention(q, k, v + torch.arange(3)[:, None], x, y, backend="cpu").sum().backward()
    assert x.grad is not None
    assert not x.grad[..., 1:].any()
    assert y.grad is not None
    assert y.grad[..., 0].any()


def test_a_part_of_a_tensor_of_both_sides_whose_queries_start_later() -> None:
    text = "axis p = 3\ninput at[b, n, p]\nscore = dot(q[i], k[j]) / sqrt(D) + at[i, 0] * at[j, 1]"
    case: Case = replace(PLAIN, q_start=4, k_start=2)
    outcome = hold(fused(text), case, "cpu")
    assert not outcome.problems, outcome.problems
