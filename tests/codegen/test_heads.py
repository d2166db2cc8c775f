"""Normalisers and reductions over the heads of a pair, where the spec fixes how many there are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.codegen.test_passes import PLAIN, SELF, fused

import attnspec
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

HEADS = "require H == 4\nindex g = h\nmask j <= i + 1\nlet P[i, j] = dot(q[i], k[j]) / sqrt(D)\n"
TEXTS = {
    "a softmax": f"{HEADS}weight = softmax(score, over=h)",
    "a softmax of some": (
        f"{HEADS}input on[b, h, j]: bool\nmask on[j]\n"
        "weight = softmax(score) * softmax(2 * P, over=h, where=h < 2 and j > 0)"
    ),
    "a softmax of weights with a sink": (
        f"{HEADS}let W[i, j] = softmax(score)\nweight = W * softmax(4 * W, over=h, sink=0.5)"
    ),
    "a log-sum-exp": f"{HEADS}score = P - logsumexp(g, P[i, j, h=g])",
    "a mean of any number": (
        "index g = h\nlet P[i, j] = dot(q[i], k[j]) / sqrt(D)\n"
        "score = P - mean(g, P[i, j, h=g]) + tanh(sum(g, 0.1 * P[i, j, h=g], where=g <= h))"
    ),
    "extreme values": (
        "const s[h] = [0.5, 1, 2, 3]\nindex g = h\nlet P[i, j] = dot(q[i], k[j]) / sqrt(D)\n"
        "score = amax(g, s[h=g] * P[i, j, h=g]) + s * amin(g, P[i, j, h=g], where=g != h)"
    ),
}
CASES = {"plain": PLAIN, "self": SELF, "half": replace(SELF, dtype="float16")}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", TEXTS)
def test_what_it_gives(name: str, case: Case) -> None:
    outcome = hold(fused(TEXTS[name]), case, "cpu")
    assert not outcome.problems, outcome.problems


def test_pairs_of_their_own_for_every_head() -> None:
    """Each head's softmax runs over the pairs of that head."""
    inputs = "require H == 4\ninput on[b, h, i, j]: bool\nmask on[i, j]\n"
    attention = attnspec.compile(f"attention a\n{inputs}weight = softmax(softmax(score), over=h)")
    outcome = hold(attention, PLAIN, "cpu" if attention.plan.fused else "blocked")
    assert not outcome.problems, outcome.problems


def test_of_any_number_of_heads_there_is_no_kernel() -> None:
    stage = attnspec.compile("attention a\nweight = softmax(score, over=h)").plan.stages[0]
    assert (stage.lowering, stage.why) == (
        "blocked", "a pairwise softmax over heads: a tile has the scores of one head"
    )  # fmt: skip
