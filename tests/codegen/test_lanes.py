"""Vectors of a pair as weights and values, mixtures over heads, products over several axes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.codegen.test_passes import PLAIN, SELF, SIZES, fused

import attnspec
from attnspec.runtime.verify_rule import hold

CASES = {
    "plain": PLAIN,
    "self": SELF,
    "no queries": replace(SELF, sizes=tuple((n, 0 if n == "i" else s) for n, s in SIZES)),
    "no keys": replace(SELF, sizes=tuple((n, 0 if n == "j" else s) for n, s in SIZES)),
    "started": replace(PLAIN, q_start=4, k_start=2),
    "one": replace(SELF, sizes=tuple((n, 1) for n, _ in SIZES)),
    "half": replace(SELF, dtype="float16"),
    "unseen": replace(SELF, fill="unseen_nan"),
}
CHANNELS = "query q[e]\nkey k[e]\n"
TABLE = "param rows[h, 17, e] = 0.1\nmask j <= i\n"
NEAR, FAR = "rows[clamp(i - j + 8, 0, 16)]", "rows[(i + j) % 17]"

# text, and of each pass its axes beside batches and heads, rows and columns, and what it gives
FORMS = {
    "a softmax for every channel": (
        f"{CHANNELS}mask j <= i\nscore = k[j] - log(1.0 + i - j)\ngate = sigmoid(q[i])",
        ["e ij vector"],
    ),
    "with a sink, positions of heads and channels, and dropout": (
        f"{CHANNELS}param s[h, e] = 0.3\nmask j <= i\n"
        "score = q[i] * k[j] - 0.5 ** (h + 1) * (i - j)\n"
        "weight = where(random(3) < 0.2, 0, softmax(score + 0.1 * e, sink=s))",
        ["e ij number", "e ij number"],
    ),
    "a difference for every channel": (
        f"{CHANNELS}query q2[e]\nkey k2[e]\nparam g[e] = 0.3\nmask j <= i + 1\n"
        "weight = softmax(q[i] * k[j]) - g * softmax(q2[i] * k2[j])",
        ["e ij vector", "e ij vector"],
    ),
    "a value of both tokens": (
        "input u[b, h, i, e]\nmask j <= i\nvalue = tanh(v[j] - u[i]) * v[j]",
        ["e ij number", "ij number"],
    ),
    "relative values through a function": (
        f"{TABLE}value = tanh(v[j] + {NEAR})", ["e ij number", "ij number"],
    ),
    "relative values times values": (
        f"{TABLE}value = v[j] * {NEAR}", ["e ij number", "ij number"],
    ),
    "a product of relative values": (
        f"{TABLE}value = {NEAR} * {FAR}", ["e ij number", "ij number"],
    ),
    "vector attention": (
        f"{CHANNELS}axis x = 3\ninput p[b, n, x]\nparam W[x, e] = 0.5\n"
        "let offset[i, j, e] = sum(x, (p[i] - p[j]) * W)\n"
        "score = tanh(q[i] - k[j] + offset)\nvalue = v[j] + offset",
        ["e ij number", "e ij number"],
    ),
    "largest, log-sum-exp and sum for every channel": (
        "axis f\ninput x[b, h, j, f]\nmask j <= i\noutput = none\n"
        "return top[b, h, i, f] = amax(j, x[j] * dot(q[i], k[j]))\n"
        "return total[b, h, i, f] = logsumexp(j, x[j] + dot(q[i], k[j]))\n"
        "return found[b, h, i, f] = sum(j, where(x[j] > dot(q[i], k[j]), 1, 0.5) * x[j])",
        ["f ij number", "f ij number", "f ij number", "f ij position"],
    ),
    "only where a class holds": (
        "axis c = 3\ninput member[b, h, c, n]: bool\n"
        "let part[c, i] = sum(j, softmax(score, where=member[c, i] and member[c, j]) * v[j])\n"
        "output = sum(c, part)",
        ["c ij number", "c ij vector"],
    ),
    "talking heads": (
        "index g = h\nindex u = h\nparam before[h, u] = 0.5\nparam after[h, g] = 0.25\n"
        "mask j <= i\n"
        "let S[i, j] = sum(u, before * dot(q[i, h=u], k[j, h=u])) / sqrt(D)\n"
        "let P[i, j] = softmax(S)\nweight = sum(g, after * P[i, j, h=g])",
        ["g ij vector"],
    ),
    "the mean of the heads for some keys": (
        "index g = h\ninput own[b, j]: bool\nmask j <= i\nlet P[i, j] = softmax(score)\n"
        "weight = where(own[j], P, mean(g, P[i, j, h=g]))",
        ["g ij number", "g ij vector", "ij number", "ij vector"],
    ),
    "a matrix between query and key": (
        "axis r = 5\nparam A[h, d, r] = 0.4\nkey low[r]\nmask j <= i\n"
        "score = sum(d, r, A * q[i] * low[j]) + sum(d, r, A * q[i] * k[j]) / sqrt(D)",
        ["ij vector"],
    ),
    "a class in common": (
        "axis c\ninput member[b, h, c, n]: bool\n"
        "mask j <= i and any(c, member[c, i] and member[c, j])",
        ["ij vector"],
    ),
    "no class apart": (
        "axis c\ninput member[b, h, c, n]: bool\n"
        "mask all(c, member[c, i] or not member[c, j])",
        ["ij vector"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_which_passes_it_takes(name: str) -> None:
    text, passes = FORMS[name]
    shown = [" ".join([*p.lanes, f"{p.row}{p.column}", p.form]) for p in fused(text).plan.passes]
    assert sorted(shown) == sorted(passes)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FORMS)
def test_what_it_gives(name: str, case: str) -> None:
    outcome = hold(fused(FORMS[name][0]), CASES[case], "cpu")
    assert not outcome.problems, outcome.problems


def test_a_mask_of_channels_has_no_gradient() -> None:
    """The product that a condition on channels counts with is none of the score's."""
    found = fused(FORMS["a class in common"][0]).plan.passes[0]
    assert len(found.dots) == 2
    assert [g.of for branch in found.branches for g in branch.gradients] == ["s0"]


TALK = "index g = h\nparam after[h, g] = 0.25\n"
# an index that another one of the same name would capture, or that a condition depends on
CAPTURES = {
    "a channel summed twice": (
        f"{CHANNELS}axis c = 3\ninput A[c, e]\nlet s0[i, j] = dot(q[i], k[j])\n"
        "score = sum(c, A * s0[i, j])"
    ),
    "the channel of a product, by name": (
        "param A[d] = 0.3\nlet s0[i, j] = dot(q[i], k[j])\nscore = sum(d, A * s0[i, j])"
    ),
    "heads without another name": "score = sum(h, dot(q[i], k[j])) / sqrt(D)",
    "a mask for every head": (
        f"{TALK}input span[h]\nmask j <= i and i - j < 9 + 4 * span\n"
        "let P[i, j] = softmax(score)\nweight = sum(g, after * P[i, j, h=g])"
    ),
    "a mask of another head": (
        "input span[h]\nmask j <= i and i - j < 9 + 4 * span\nlet P[i, j] = softmax(score)\n"
        "weight = P[i, j, h=h // 2 * 2]"
    ),
    "random numbers of another head": (
        f"{TALK}mask j <= i\nlet P[i, j] = where(random(3) < 0.4, 0, softmax(score))\n"
        "weight = sum(g, after * P[i, j, h=g])"
    ),
    "the mean over heads that the mask knows": (
        "input span[h]\ninput x[b, j]\nmask j <= i and i - j < 9 + 4 * span\n"
        "return r[b, h, i] = sum(j, mean(h, softmax(score)) * x[j])"
    ),
    "the mean over heads that a condition knows": (
        "input own[b, h, j]: bool\ninput x[b, j]\n"
        "return r[b, h, i] = sum(j, mean(h, softmax(score)) * x[j], where=own[j])"
    ),
    "an entry that is a channel, too": (
        "axis f = 5\ninput x[b, h, j, f]\n"
        "return m[b, h, i, f] = sum(j, x[j] * dot(q[i], k[j]), where=(i - j) == f)"
    ),
    "one weight of channels, one without": (
        "key k2[e]\nlet P[i, j] = softmax(score)\nweight = P - softmax(score + k2[j])\n"
        "return z[b, h, i] = logsumexp(j, score)"
    ),
}


@pytest.mark.parametrize("name", CAPTURES)
def test_what_is_called_alike_is_not_taken_for_the_same(name: str) -> None:
    attention = attnspec.compile(f"attention a\n{CAPTURES[name]}")
    if attention.plan.fused:  # else it is computed as it is defined
        for case in (PLAIN, SELF):
            outcome = hold(attention, case, "cpu")
            assert not outcome.problems, outcome.problems


def test_no_channels() -> None:
    attention = fused(
        "axis c\ninput y[b, h, c, j]\nreturn top[b, h, c, i] = amax(j, y[c, j] + norm2(q[i]))"
    )
    q, k, v = (torch.randn(1, 2, 5, 4) for _ in range(3))
    _, extras = attention(q, k, v, torch.zeros(1, 2, 0, 5), extras=True)
    assert extras["top"].shape == (1, 2, 0, 5)
