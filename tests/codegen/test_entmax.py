"""Entmax and sparsemax in passes: what they give, how often the keys are swept, their functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.codegen.test_passes import CASES, PLAIN, SELF, fused, shown

import attnspec
from attnspec.runtime import cpu_entmax
from attnspec.runtime.cpu_entmax import bend_tile, tempered_tile
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

FORMS = {
    "sparsemax": "mask j <= i - 1\nweight = sparsemax(3 * score)",
    "nearly a softmax": "mask j <= i + 5\nweight = entmax(score, alpha=1.05)",
    "squares": "weight = entmax(2 * score, alpha=1.5, where=j > i - 9)",
    "roots": "mask j <= i + 2\nweight = entmax(score, alpha=3)",
    "learned": "param a[h] = 0\nmask j <= i - 2\nweight = entmax(score, alpha=1 + sigmoid(a))",
    "learned above 2": "param a[h]\nweight = entmax(score, alpha=1.1 + 2 * sigmoid(a))",
    "of the row": "input a[b, h, i]\nmask j < i\nweight = entmax(score, alpha=1.1 + sigmoid(a[i]))",
    "over the queries": (
        "mask j <= i\nweight = entmax(score, over=i, alpha=1.3)\n"
        "return back[b, h, j, d] = sum(i, weight * q[i])"
    ),
    "read out": (
        "mask j <= i\nweight = sparsemax(score)\nreturn map[b, h, i, j] = weight\n"
        "return left[b, h, i] = sum(j, weight ** 2)\nreturn mass[b, h, j] = sum(i, weight)"
    ),
    "among others": (
        "query q2[d]\nkey k2[d]\nparam lam[h] = 0.5\nmask j <= i\n"
        "let second = entmax(dot(q2[i], k2[j]) / sqrt(D))\n"
        "weight = softmax(score) - lam * second + 0.1 * sparsemax(score, where=j > 0)"
    ),
    "given": "input bias[b, h, i, j]\nweight = entmax(score + bias[i, j], alpha=1.75)",
    "of the query alone": "input u[b, h, i]\nmask j <= i\nweight = entmax(u[i] + 0 * j, alpha=1.3)",
    "without a gradient": "mask j <= i\nweight = stopgrad(sparsemax(score))",
}
MORE = CASES | {
    "double": replace(SELF, dtype="float64"),
    "large": replace(PLAIN, fill="large"),
    "short": replace(SELF, dtype="bfloat16"),
}


@pytest.mark.parametrize("case", MORE)
@pytest.mark.parametrize("name", FORMS)
def test_entmax_gives_what_is_defined(name: str, case: str) -> None:
    outcome = hold(fused(FORMS[name]), MORE[case], "cpu")
    assert not outcome.problems, outcome.problems


def test_the_passes_of_an_entmax() -> None:
    """A search and a slope without gradients, a sum that has one, and the weights."""
    attention = fused("weight = sparsemax(score)")
    assert shown(attention) == ["threshold ij", "number ij", "number ij", "vector ij"]
    assert [len(p.branches[0].gradients) for p in attention.plan.passes] == [0, 0, 1, 2]


def test_whole_powers_are_products() -> None:
    for alpha, tempered in (("1.2", False), ("1.5", False), ("2", False), ("1.3", True)):
        source = fused(f"weight = entmax(score, alpha={alpha})").source
        assert ("= tempered(" in source) == tempered


SPREAD = (("b", 1), ("h", 1), ("heads", 1), ("i", 128), ("j", 4096), ("d", 4), ("e", 1))


@pytest.mark.parametrize(("alpha", "least", "most"), [(1.05, 2, 12), (2.0, 3, 12), (3.0, 15, 30)])
@pytest.mark.parametrize("scale", [0.1, 1, 10])
def test_how_often_the_keys_are_swept(
    alpha: float, least: int, most: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = attnspec.compile(f"attention a\nweight = entmax({scale} * score, alpha={alpha})")
    swept = 0

    def counted(*args: Any) -> Any:
        nonlocal swept
        swept += 1
        return sums(*args)

    sums = cpu_entmax._sums
    monkeypatch.setattr(cpu_entmax, "_sums", counted)
    generator = torch.Generator().manual_seed(0)
    sizes = dict(SPREAD)
    q, k, v = (
        torch.randn(1, 1, sizes[n], sizes[c], generator=generator)
        for n, c in (("i", "d"), ("j", "d"), ("j", "e"))
    )
    attention(q, k, v)
    assert least <= swept <= most


def test_scores_that_make_newtons_method_slow() -> None:
    """Each step of a row of halving distances adds few keys to the support."""
    case = Case((("b", 1), ("h", 1), ("heads", 1), ("i", 1), ("j", 40), ("d", 1), ("e", 3)),
                0, 0, "float64", "contiguous", "normal", 2)  # fmt: skip
    text = "weight = sparsemax(0 * dot(q[i], k[j]) - 0.8 ** j)"
    outcome = hold(fused(text), case, "cpu")
    assert not outcome.problems, outcome.problems


@given(z=st.floats(-50, 5), a=st.floats(1e-3, 4))
def test_the_tempered_exponential_is_a_power(z: float, a: float) -> None:
    base = 1 + a * z
    want = base ** (1 / a) if base > 0 else 0.0
    got = float(tempered_tile(torch.tensor(z, dtype=torch.float64), a))
    assert got == pytest.approx(want, rel=1e-9, abs=1e-300)


@given(z=st.floats(-20, 2), a=st.floats(0.02, 3))
def test_how_the_tempered_exponential_bends(z: float, a: float) -> None:
    """Against the derivative to `a` of log(1 + a z) / a."""
    if 1 + a * z <= 1e-3:
        return
    x = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    exact = torch.autograd.grad(torch.log1p(x * z) / x, x)[0]
    got = bend_tile(torch.tensor(z, dtype=torch.float64), a)
    torch.testing.assert_close(got, exact, rtol=1e-8, atol=1e-10)


def test_the_tempered_exponential_at_0_is_the_exponential() -> None:
    z = torch.linspace(-30, 3, 50, dtype=torch.float64)
    for a in (0.0, 1e-30, 1e-13):
        torch.testing.assert_close(tempered_tile(z, a), z.exp(), rtol=1e-9, atol=0.0)
        torch.testing.assert_close(bend_tile(z, a), -z * z / 2, rtol=1e-9, atol=0.0)
