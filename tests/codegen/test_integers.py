"""Largest and least integers over pairs, exactly, and where they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.codegen.test_passes import PLAIN, SELF, fused

import attnspec
from attnspec.runtime.verify_rule import hold

CASES = {
    "plain": PLAIN,
    "self": SELF,
    "started": replace(PLAIN, q_start=4, k_start=2),
}
TEXTS = {
    "of some": (
        "input c[b, n]: int\nlet m[i] = amax(j, c[j] * 2 - c[i], where=j % 3 == 0)\n"
        "score = dot(q[i], k[j]) / sqrt(D) + where(m[i] > 0, 0.1 * c[j], 0)"
    ),
    "the last of a kind": (
        "input c[b, n]: int\nmask j <= i\nlet m[i] = amax(j, j, where=c[j] == c[i] and j < i)\n"
        "score = dot(q[i], k[j]) / sqrt(D) - where(m[i] < 0, 0, 0.1 * (j - m[i]))"
    ),
    "the least": (
        "input c[b, n]: int\nmask j <= i\nlet m[i] = amin(j, abs(c[i] - c[j]), where=j != i)\n"
        "weight = softmax(score) * 0.5 ** min(m[i], 9)"
    ),
    "over queries": (
        "input c[b, j]: int\ninput g[b, i]: int\nmask j <= i\nlet m[j] = amax(i, g[i] - c[j])\n"
        "score = dot(q[i], k[j]) / sqrt(D) + where(m[j] > 0, 0.1, 0)"
    ),
    "of tokens, one for all heads or batches": (
        "input c[n]: int\ninput near[h]: int\ninput r[i, 4]: int\ninput s[b, j, 3]: int\n"
        "mask r[i, clamp(i - j, 0, 3)] + s[j, clamp(j - i, 0, 2)] >= near\n"
        "score = dot(q[i], k[j]) / sqrt(D) + 0.1 * (c[i] - c[j])"
    ),
    "of keys alone, the first one for all heads": (
        "input c[b, j]: int\nkey y[d]\ninput x[b, i]\n"
        "return r[b, h, i] = logsumexp(j, where(c[j] <= i, sin(x[i] * y[j, 0]), 0.1))"
    ),
    "given for pairs": (
        "input g[b, h, i, j]: int\nlet m[i] = amax(j, g[i, j])\n"
        "score = dot(q[i], k[j]) / sqrt(D) + where(g[i, j] == m[i], 0.5, 0)"
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TEXTS)
def test_what_it_gives(name: str, case: str) -> None:
    outcome = hold(fused(TEXTS[name]), CASES[case], "cpu")
    assert not outcome.problems, outcome.problems


def operands() -> dict[str, Any]:
    return {name: torch.zeros(1, 1, 6, 4) for name in "qkv"}


@pytest.mark.parametrize("op", ["amax", "amin", "argmax"])
def test_integers_that_no_float_has(op: str) -> None:
    text = "input c[b, n]: int\nmask j <= i\nweight = sigmoid(score)\n"
    attention = fused(f"{text}return found[b, i] = where({op}(j, c[i] - c[j]) % 2 == 0, 1.0, 0.0)")
    big = 2**40 + torch.tensor([[5, 1, 2, 4, 3, 1]])
    got = attention(**operands(), c=big, backend="cpu", extras=True)[1]["found"]
    assert torch.equal(
        got.double(), attention.reference(**operands(), c=big, extras=True)[1]["found"]
    )


@pytest.mark.parametrize(("op", "found"), [("amin", -(2**63)), ("amax", 2**63 - 1)])
def test_the_ends_of_the_integers(op: str, found: int) -> None:
    attention = fused(f"input c[b, n]: int\nweight = where({op}(j, c[j] - 0 * i) == c[0], 1, 0)")
    v, c = torch.ones(1, 1, 2, 4), torch.tensor([[found, 5]])
    assert attention(v=v, c=c, backend="cpu").eq(2).all()


PLACES = "argmax(a, x[i] + x[j]) == size(a) - 1"


@pytest.mark.parametrize(
    ("size", "condition", "plan"),
    [
        ("a", "amax(a, x[i] * x[j]) % 2 == 1", "blocked"),
        ("a", "amin(a, -x[i] * x[j], where=a > 0) % 2 == 1", "blocked"),
        ("a", PLACES, "blocked"),
        ("a = 3", PLACES, "blocked"),
        ("a = 3", "amax(a, x[i] * x[j]) % 2 == 1", "fused"),
        ("a = 3", "amin(a, -x[i] * x[j], where=x[j] % 2 == 1) % 2 == 1", "fused"),
        ("a = 3", "prod(a, x[i] - x[j] + 4097) % 2 == 1", "fused"),
    ],
)
def test_integers_over_channels_that_no_float_has(size: str, condition: str, plan: str) -> None:
    text = f"axis {size}\ninput x[b, n, a]: int\nweight = where({condition}, 1, 0)"
    attention = attnspec.compile(f"attention a\n{text}")
    assert attention.plan.stages[0].lowering == plan
    x = 2**26 + torch.tensor([[[-1, 0, 1], [-3, 2, 3], [-2, -1, 1]]])
    v = torch.randn(1, 1, 3, 4)
    got = attention(v=v, x=x, backend="cpu")
    torch.testing.assert_close(got.double(), attention.reference(v=v, x=x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "total",
    [
        "let s[i, j] = sum(u, c[u] + 0 * i, where=u <= j)",
        "let m[i] = sum(u, c[u] + 0 * i, where=u <= i)\nlet s[i, j] = m[i] - c[j]",
        "axis a\ninput x[b, n, a]: int\nlet s[i, j] = sum(a, x[i] * x[j]) + 0 * c[j]",
    ],
)
def test_sums_of_integers_that_a_float_has(total: str) -> None:
    text = f"index u = j\ninput c[b, n]: int\n{total}\nweight = where(s[i, j] % 2 == 1, 1, 0)"
    given: dict[str, Any] = {"c": torch.tensor([[2**24 - 9, 1, 1, 2, 1]])}
    if "axis" in text:
        given["x"] = torch.tensor([[[2047, 4], [2049, 1], [4094, 5], [3, 2], [1, 1]]])
    v = torch.randn(1, 1, 5, 4)
    got = fused(text)(v=v, **given, backend="cpu")
    want = attnspec.compile(f"attention a\n{text}").reference(v=v, **given)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_what_queries_and_keys_have_apart_is_not_read_at_a_place() -> None:
    """There, the call gives the keys' part."""
    text = "input c[b, n]: int\nlet m[j] = amax(i, c[i] - c[j])\nscore = dot(q[i], k[j]) + m[j]"
    attention = attnspec.compile(f"attention a\n{text}")
    assert "cannot be read at one place" in attention.plan.stages[0].why


def test_a_definition_read_at_a_query_of_what_both_sides_have() -> None:
    text = "input c[b, n]\nlet S[i, j] = c[i] * c[j]\n"
    text += "score = dot(q[i], k[j]) + S[clamp(i - 1, 0, M - 1), j]"
    attention = attnspec.compile(f"attention a\n{text}")
    given = {**operands(), "c": (torch.arange(6.0)[None], 10 + torch.arange(6.0)[None])}
    given["v"] = torch.randn(1, 1, 6, 4)
    got, want = attention(**given, backend="cpu"), attention.reference(**given)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
