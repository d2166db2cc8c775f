"""Scores that are no dot product, each held against the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.codegen.test_regressions import PLAIN, held

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


@pytest.mark.parametrize("text", WITHOUT_PRODUCTS)
@pytest.mark.parametrize(("fill", "layout"), [("normal", "contiguous"), ("unseen_nan", "corner")])
def test_scores_without_a_dot_product(text: str, fill: str, layout: str) -> None:
    sizes = (("b", 2), ("h", 4), ("heads", 2), ("i", 130), ("j", 33), ("d", 4), ("e", 6))
    held(text, replace(PLAIN, sizes=sizes, q_start=20, fill=fill, layout=layout))


def test_values_of_the_host_are_a_stage() -> None:
    """What is not a number where no query sees it reaches what the host multiplies it by."""
    text = "input y[j]\nmask j % 2 == 0\nvalue = v[j] * y[j]"
    held(text, replace(PLAIN, fill="unseen_nan"))
