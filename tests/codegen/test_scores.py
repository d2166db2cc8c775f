"""Scores that are no dot product, each held against the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.codegen.test_regressions import PLAIN, fused, held

WITHOUT_PRODUCTS = [
    "input x[b, h, i]\ninput y[b, h, j]\nmask j <= i\nscore = x[i] + y[j]",
    "input x[b, h, i]\ninput y[b, h, j]\nweight = tanh(x[i] * y[j]) / N",
    "input x[b, h, i]\nmask j <= i\nscore = tanh(x[i])",
    "input y[j]\nmask j <= i\nscore = y[j]\nreturn lse[b, h, i] = logsumexp(j, score)",
    "mask abs(i - j) <= 3\nscore = 0",
    "input c: float = 0.5\nmask abs(i - j) <= 3\nweight = c / N",
    "param width[h] = 2\nscore = -((i - j) ** 2) / (1 + width ** 2)",
    "param width[h] = 2\nmask j <= i\nweight = softmax(width, sink=0)",
    "param table[h, 33] = 0.1\nscore = table[clamp(i - j, -16, 16) + 16]\ngate = 0.5",
    "input given[i, j]\nscore = given[i, j]",
]


CHANNELS = [
    "param w[h, d] = 1\nscore = dot(w, tanh(q[i] + k[j]))",
    "param w[h, d] = 1\ninput doc[b, n]: int\nmask doc[i] == doc[j]\n"
    "score = sum(d, w[d] * leaky_relu(q[i, d] + k[j, d], 0.2))",
    "mask j <= i\nweight = exp(-sum(d, abs(q[i, d] - k[j, d]))) / N",
    "grid y, x\nparam w[d] = 1\nmask abs(i.y - j.y) <= 2 and abs(i.x - j.x) <= 2\n"
    "score = dot(w, relu(q[i] + k[j]))",
    "param w[d] = 1\nscore = sum(d, w[d] * (1 + d) * tanh(stopgrad(q[i, d]) - k[j, d])) / D",
    "param w[d] = 1\ninput p[i, j]\nscore = tanh(sum(d, w[d] * tanh(q[i, d] + k[j, d])))"
    " * sum(d, max(q[i, d], k[j, d])) + p[i, j]",
    "axis c\ninput x[b, i, c]\ninput y[b, h, j, c]\ninput s[b, h, i]\ninput z[b, h, j]\n"
    "param u[c] = 1\nmask abs(i - j) <= 40\n"
    "score = dot(q[i], k[j]) + z[j] * sum(c, sin(y[j, c] * s[i])) + sum(c, u[c] * sigmoid("
    "x[i, c] * s[i] + y[j, c] + z[j] + where(i > j, 0.5, -0.5)), where=u[c] > 0)\n"
    "weight = softmax(score, sink=0)\ngate = sigmoid(s[i])",
]
DISTANCES = [
    "score = -norm2(q[i] - k[j])",
    "mask j <= i\nscore = -sqrt(0.01 + norm2(q[i] - k[j]))",
    "input r: float = 2\nmask norm2(q[i] - k[j]) < r",
    "score = -sum(d, (q[i, d] - k[j, d]) ** 2) / 2",
    "param s[h, d] = 1\nscore = -sum(d, s[d] ** 2 * (q[i, d] - k[j, d]) ** 2) / 2",
    "axis f\nquery q[f]\nparam m[h, f, d] = 0.1\nscore = dot(q[i] @ m, k[j])",
]


@pytest.mark.parametrize("text", [*CHANNELS, *DISTANCES])
@pytest.mark.parametrize(("dtype", "fill"), [("float32", "normal"), ("float16", "unseen_nan")])
def test_sums_over_channels(text: str, dtype: str, fill: str) -> None:
    sizes = (("b", 2), ("h", 4), ("heads", 2), ("i", 30), ("j", 33), ("d", 5), ("e", 6), ("c", 3))
    held(text, replace(PLAIN, sizes=sizes, q_start=7, dtype=dtype, fill=fill))


def test_a_distance_becomes_products() -> None:
    """Its row term is none of the kernel's, and its channels no loop."""
    (plan,) = fused("score = -norm2(q[i] - k[j])").plan.passes
    assert [leaf.role for leaf in plan.leaves] == ["row", "column"]
    assert len(plan.dots) == 1
    assert not plan.sums


def test_a_distance_of_equal_tokens_is_not_negative() -> None:
    attention = fused("score = -sqrt(norm2(q[i] - k[j]))")
    x = 1000 + torch.randn(1, 1, 40, 33, generator=torch.Generator().manual_seed(0))
    assert bool(attention(x, x, x, backend="cpu").isfinite().all())


@pytest.mark.parametrize("text", WITHOUT_PRODUCTS)
@pytest.mark.parametrize(("fill", "layout"), [("normal", "contiguous"), ("unseen_nan", "corner")])
def test_scores_without_a_dot_product(text: str, fill: str, layout: str) -> None:
    sizes = (("b", 2), ("h", 4), ("heads", 2), ("i", 130), ("j", 33), ("d", 4), ("e", 6))
    held(text, replace(PLAIN, sizes=sizes, q_start=20, fill=fill, layout=layout))


def test_values_of_the_host_are_a_stage() -> None:
    """What is not a number where no query sees it reaches what the host multiplies it by."""
    text = "input y[j]\nmask j % 2 == 0\nvalue = v[j] * y[j]"
    held(text, replace(PLAIN, fill="unseen_nan"))
