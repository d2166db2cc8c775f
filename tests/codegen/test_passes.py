"""Specs that take several passes over pairs: which passes, and that they give what is defined."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import attnspec
from attnspec.codegen.plan_types import PairPlan
from attnspec.runtime.api import Attention
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

SIZES = (("b", 2), ("h", 4), ("heads", 2), ("i", 33), ("j", 41), ("d", 4), ("e", 6))
PLAIN = Case(SIZES, 3, 0, "float32", "contiguous", "normal", 7)
SELF = replace(PLAIN, sizes=tuple((n, 33 if n == "j" else s) for n, s in SIZES), q_start=0)
EMPTY = replace(PLAIN, sizes=tuple((n, 0 if n == "j" else s) for n, s in SIZES), q_start=0)
TWO = "query q2[d]\nkey k2[d]\n"
OTHER = "dot(q2[i], k2[j])"
CODES = "input r[b, i]: int\ninput c[b, j]: int\n"

# text, and of each pass what it gives, rows and columns, and whether it is a softmax
FORMS = {
    "difference": (
        f"{TWO}param lam[h] = 0.5\nweight = softmax(score) - lam * softmax({OTHER})",
        ["vector ij softmax + softmax"],
    ),
    "mixture": (
        f"{TWO}param g[h] = 0\nlet a = sigmoid(g)\n"
        f"weight = a * softmax(score) + (1 - a) * softmax({OTHER})",
        ["vector ij softmax + softmax"],
    ),
    "product of softmaxes": (
        f"{TWO}mask j <= i + 2\nweight = softmax(score) * softmax({OTHER})",
        ["number ij softmax", "number ij softmax", "vector ij"],
    ),
    "softmax over the queries": (
        "mask j <= i + 5\nweight = softmax(score, over=i)",
        ["number ji softmax", "vector ij"],
    ),
    "sum-normalised": (
        "let raw = exp(score)\nweight = raw / (1 + sum(j, raw))",
        ["number ij", "vector ij"],
    ),
    "a number of each pair, given": (
        "input bias[b, h, i, j]\nscore = dot(q[i], k[j]) + bias[i, j]",
        ["vector ij softmax"],
    ),
    "mean": ("mask j <= i + 1\noutput = mean(j, v[j])", ["number ij", "vector ij"]),
    "entropy": (
        "mask j <= i + 1\nreturn entropy[b, h, i] = logsumexp(j, score) - sum(j, weight * score)",
        ["vector ij softmax", "number ij"],
    ),
    "column sums": (
        "mask j <= i + 1\nreturn mass[b, h, j] = sum(i, weight)",
        ["vector ij softmax", "number ji"],
    ),
    "map": (
        "mask j <= i + 1\nreturn map[b, i, j] = mean(h, weight)",
        ["vector ij softmax", "map ij"],
    ),
    "map of raw scores": ("return raw[b, h, i, j] = tanh(score)", ["vector ij softmax", "map ij"]),
    "transposed use": (
        "mask j <= i + 1\nlet back[j, d] = sum(i, weight * q[i])\n"
        "return back_out[b, h, j, d] = back[j]",
        ["vector ij softmax", "vector ji"],
    ),
    "sink elsewhere": (
        "input s[h]\nlet p = softmax(score, sink=s)\nweight = p * p",
        ["number ij softmax", "vector ij"],
    ),
    "where of its own": (
        "mask j <= i + 6\nlet near = softmax(score, where=j >= i - 3)\n"
        "weight = near + softmax(score)",
        ["number ij softmax", "vector ij softmax + weight"],
    ),
    "sums over channels too": (
        "let total[i] = sum(j, e, weight * v[j])\noutput = total * q[i]",
        ["vector ij softmax"],
    ),
    "how many keys each query has": (
        "let count[i] = max(1, sum(j, 1))\nmask j <= i + 5\n"
        "return found[b, h, j] = sum(i, weight / count)",
        ["vector ij softmax", "number ij", "number ji"],
    ),
    "reading after a pass": (
        "let first[i, d] = sum(j, softmax(score) * k[j])\n"
        "weight = softmax(dot(first[i], k[j]))",
        ["vector ij softmax", "vector ij softmax"],
    ),
    "what a sink leaves": (
        "param s[h] = 0.4\nmask j < i - 2\nweight = softmax(score, sink=s)\n"
        "output = sum(j, weight * v[j]) + (1 - sum(j, weight)) * q[i, 0]",
        ["vector ij softmax", "number ij softmax"],
    ),
    "a sum of weights alone": (
        "mask j < i - 2\noutput = sum(j, weight * v[j]) + 0.5 * sum(j, weight)",
        ["vector ij softmax"],
    ),
    "a number for each key": (
        "input c[b, j]\nlet first[i] = sum(j, softmax(score) * c[j])\n"
        "weight = sigmoid(score + first[i]) / N",
        ["number ij softmax", "number ij", "vector ij"],
    ),
    "a column sum of what sums over rows": (
        "mask j <= i + 2\nweight = softmax(score, over=i)\noutput = none\n"
        "return found[b, j] = mean(h, i, weight)",
        ["number ji softmax", "number ji"],
    ),
    "values relative to the query's": (
        "query u[e]\nmask j < i + 2\nvalue = 0.5 * (v[j] - u[i])",
        ["vector ij softmax"],
    ),
    "values times a number of the query": (
        "input x[b, h, i]\nmask j <= i\nvalue = v[j] * x[i]",
        ["vector ij softmax"],
    ),
    "values gated by the query": (
        "query u[e]\nquery z[e]\nmask j <= i + 1\n"
        "value = (v[j] * sigmoid(u[i]) + z[i]) / (2 + z[i] ** 2)\nweight = sigmoid(score)",
        ["vector ij", "number ij"],
    ),
    "dropout": (
        "input p: float = 0.1 where 0 <= p < 1\ninput seed: int = 0\nmask j <= i + 3\n"
        "weight = where(random(seed) < p, 0, softmax(score) / (1 - p))",
        ["number ij softmax", "vector ij"],
    ),
    "random numbers of a transposed pass": (
        "input seed: int = 0\nlet noisy = score + random(seed)\noutput = none\n"
        "return mass[b, h, j] = sum(i, exp(noisy))",
        ["number ji"],
    ),
    "any of the keys": (
        f"{CODES}let seen[i] = any(j, r[i] == c[j], where=j < i)\nmask j <= i and seen[i]",
        ["number ij", "vector ij softmax"],
    ),
    "all of the keys": (
        f"{CODES}mask j <= i + 1\n"
        "output = where(all(j, r[i] != c[j]), q[i, 0], sum(j, weight * v[j]))",
        ["number ij", "vector ij softmax"],
    ),
    "read at another head and channel": (
        "index g = h\nindex f = e\nlet read[i] = sum(j, weight * v[j])\n"
        "output = read[i] * sigmoid(sum(g, f, read[i, f, h=g]))",
        ["vector ij softmax"],
    ),
}  # fmt: skip

# The same tokens on either side.
SQUARE = {
    "a step on what a step found": (
        "require M == N\nlet one[i] = sum(j, weight * v[j])\noutput = sum(j, weight * one[j])",
        ["vector ij softmax", "vector ij softmax"],
    ),
    "a gate of what a token received": (
        "require M == N\nmask j <= i\nlet received[j] = sum(i, weight) / N\n"
        "let fade[j] = sigmoid(received[j])\noutput = fade[i] * sum(j, weight * v[j])",
        ["vector ij softmax", "number ij softmax", "number ji"],
    ),
    "a shifted read": (
        "require M == N\nmask j <= i\nlet found[i] = sum(j, weight * v[j])\n"
        "output = found[i] + found[i - 1, pad=0]",
        ["vector ij softmax"],
    ),
}


# what rows have their largest and least value at: equal numbers, empty rows, other starts
LARGEST = {
    "value": "mask j <= i - 1\nreturn top[b, h, i] = amax(j, score)",
    "least": "input c[b, i, j]: bool\nreturn low[b, h, i] = amin(j, score, where=c[i, j])",
    "weight": "mask j <= i + 1\nreturn top[b, i] = mean(h, amax(j, weight))",
    "of a column": (
        "mask j <= i + 1\n"
        "return top[b, h, j] = amax(i, weight)\nreturn at[b, h, j] = argmax(i, score)"
    ),
    "position": (
        "mask j >= i\nreturn at[b, h, i] = argmax(j, stopgrad(score) + i - j, where=j > i + 2)"
    ),
    "value there": "let at[i] = argmax(j, score)\noutput = v[at[i]]",
    "of several axes": (
        "mask j <= i - 1\nreturn top[b] = amax(h, i, j, score)\n"
        "return low[b, h] = amin(i, j, weight, where=j > 3)"
    ),
    "in the weight": "mask j <= i\nweight = exp(score - amax(j, score))",
    "with a table": (
        "param r[h, 9] = 0\nmask j <= i + 4\n"
        "return top[b, h, i] = amax(j, dot(q[i], k[j]) + r[clamp(i - j, 0, 8)])"
    ),
    "over channels": (
        "param w[h, d] = 1\nmask j <= i\n"
        "return top[b, h, i] = amax(j, sum(d, w[d] * tanh(q[i] + k[j])))"
    ),
}
TIES = replace(SELF, fill="zeros")
CASES = {
    "plain": PLAIN,
    "self": SELF,
    "empty": EMPTY,
    "ties": TIES,
    "started": replace(PLAIN, q_start=4, k_start=2),
    "one": replace(SELF, sizes=tuple((n, 1) for n, _ in SIZES)),
    "half": replace(SELF, dtype="float16"),
    "not a number": replace(SELF, fill="nan_query"),
    "unseen": replace(SELF, fill="unseen_nan"),
}


def fused(text: str) -> Attention:
    attention = attnspec.compile(f"attention a\n{text}")
    assert attention.plan.fused, attention.plan.stages
    return attention


def shown(attention: Attention) -> list[str]:
    return [" ".join([p.form, f"{p.row}{p.column}", *added(p)]) for p in attention.plan.passes]


def added(found: PairPlan) -> list[str]:
    """The weights that a pass adds up, but for one that is no softmax."""
    kinds = ["softmax" if branch.softmax else "weight" for branch in found.branches]
    return [] if kinds == ["weight"] else [" + ".join(kinds)]


@pytest.mark.parametrize("name", FORMS)
def test_which_passes_a_spec_takes(name: str) -> None:
    text, passes = FORMS[name]
    assert sorted(shown(fused(text))) == sorted(passes)


@pytest.mark.parametrize("case", [PLAIN, SELF, EMPTY], ids=["plain", "self", "empty"])
@pytest.mark.parametrize("name", FORMS)
def test_passes_give_what_is_defined(name: str, case: Case) -> None:
    outcome = hold(fused(FORMS[name][0]), case, "cpu")
    assert not outcome.problems, outcome.problems


@pytest.mark.parametrize("name", SQUARE)
def test_what_a_pass_found_is_read_at_other_tokens(name: str) -> None:
    text, passes = SQUARE[name]
    attention = fused(text)
    assert sorted(shown(attention)) == sorted(passes)
    for case in (SELF, replace(SELF, q_start=5, k_start=5)):
        outcome = hold(attention, case, "cpu")
        assert not outcome.problems, outcome.problems


@pytest.mark.parametrize(
    ("name", "case"),
    [(n, c) for n in LARGEST for c in CASES if (n, c) != ("value there", "empty")],
)
def test_largest_values_and_where_they_are(name: str, case: str) -> None:
    outcome = hold(fused(LARGEST[name]), CASES[case], "cpu")
    assert not outcome.problems, outcome.problems


def test_a_largest_value_is_found_before_it_is_read() -> None:
    """Its position, without a gradient, then what stands there, in two passes."""
    attention = fused("output = none\nreturn top[b, h, i] = amax(j, dot(q[i], k[j]))")
    assert shown(attention) == ["position ij", "number ij"]
    assert [len(p.branches[0].gradients) for p in attention.plan.passes] == [0, 1]


def test_the_first_of_equal_numbers_gets_the_gradient() -> None:
    attention = fused("output = none\nreturn top[b, h, i] = amax(j, dot(q[i], k[j]))")
    q, k = torch.ones(1, 1, 3, 2), torch.ones(1, 1, 600, 2)
    k[:, :, :7] = 0.5
    _, extras = attention(q, k.requires_grad_(), extras=True)
    extras["top"].sum().backward()
    assert k.grad is not None
    assert k.grad.sum(-1).nonzero().tolist() == [[0, 0, 7]]


def test_what_is_the_same_for_all_heads_is_read_without_them() -> None:
    attention = fused(
        f"{CODES}let got[i] = any(j, r[i] == c[j])\nreturn f[b, i] = where(got, 1.0, 0.0)"
    )
    outcome = hold(attention, SELF, "cpu")
    assert not outcome.problems, outcome.problems


def test_a_pass_runs_once_for_everything_that_needs_it() -> None:
    text = "mask j <= i\nlet z[i] = logsumexp(j, score)\nreturn a[b, h, i] = z\n"
    text += "return c[b, h, i] = 2 * z"
    assert shown(fused(text)) == ["vector ij softmax"]


def test_a_spec_without_pairs_is_a_module_of_the_host() -> None:
    attention = fused("output = q[i] * sum(j, k[j])")
    assert not attention.plan.passes
    assert attention.plan.backward
    assert "triton" not in attention.source
    outcome = hold(attention, SELF, "cpu")
    assert not outcome.problems, outcome.problems


def test_what_is_asked_for_is_all_that_a_map_holds() -> None:
    """Nothing of M x N but the map itself, which is zero where no pair takes part."""
    attention = fused("mask j <= i\nreturn map[b, h, i, j] = weight")
    q, k, v = (torch.randn(1, 1, 9, 4) for _ in range(3))
    _, extras = attention(q, k, v, extras=True)
    assert extras["map"].triu(1).abs().sum() == 0
    torch.testing.assert_close(extras["map"].sum(-1), torch.ones(1, 1, 9))
