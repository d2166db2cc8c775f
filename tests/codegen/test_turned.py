"""Definitions over pairs read with their tokens changed places: the passes, and what they give."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.codegen.test_passes import SELF, fused, shown

import attnspec
from attnspec.codegen.prepared import prepared
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

SQUARE = "require M == N\n"
SCORE = "dot(q[i], k[j]) / sqrt(D)"

# text, and of each pass what it gives, rows and columns
FORMS = {
    "a symmetrised score": (
        f"mask j <= i + 3\nlet S[i, j] = {SCORE}\nscore = S[i, j] * S[j, i]",
        ["vector ij softmax"],
    ),
    "a softmax": (
        f"mask j <= i + 3\nlet P[i, j] = softmax({SCORE})\noutput = sum(j, P[j, i] * v[j])",
        ["number ij softmax", "vector ij"],
    ),
    "a softmax both ways": (
        f"mask j <= i\nparam s[h] = 0.3\nlet P[i, j] = softmax({SCORE}, sink=s)\n"
        "weight = P[i, j] + 0.5 * P[j, i]",
        ["number ij softmax", "vector ij softmax + weight"],
    ),
    "a softmax over the queries": (
        "mask j <= i + 3\nlet P[i, j] = softmax(score, over=i)\nweight = P[i, j] * P[j, i]",
        ["number ji softmax", "vector ij"],
    ),
    "one that is made of one": (
        f"mask j <= i + 3\nlet P[i, j] = softmax({SCORE})\n"
        "let Q[i, j] = P[j, i] + 0.3 * P[i, j]\n"
        "weight = Q[j, i] / (1 + sum(i, Q[i, j]))",
        ["number ij softmax", "number ji", "vector ij"],
    ),
    "of every head": (
        "index g = h\nparam mix[h, g] = 0.3\ninput on[b, h, j]: bool\nmask on[j]\n"
        "let P[i, j] = softmax(score)\nweight = sum(g, mix * P[j, i, h=g])",
        ["number ij softmax", "vector ij"],
    ),
    "an entmax": (
        "let P[i, j] = entmax(score)\nweight = P[i, j] + P[j, i]",
        ["threshold ij", "number ij", "number ij", "vector ij"],
    ),
    "less the largest of its row": (
        f"mask j <= i\nlet S[i, j] = {SCORE} - amax(j, {SCORE})\nweight = sigmoid(min(S[j, i], 2))",
        ["position ij", "number ij", "vector ij"],
    ),
    "with dropout": (
        "input seed: int = 3\nlet P[i, j] = where(random(seed) < 0.25, 0, softmax(score))\n"
        "output = sum(j, P[j, i] * v[j])",
        ["number ij softmax", "vector ij"],
    ),
    "as a map": (
        "mask j <= i + 3\nlet P[i, j] = softmax(score)\n"
        "return both[b, h, i, j] = P[i, j] * P[j, i]",
        ["map ij", "vector ij softmax"],
    ),
    "less the mean of what its row sees": (
        "input s[h, i, j]\ninput on[b, j]: bool\nmask on[j]\n"
        f"let S[i, j] = s[i, j] - mean(j, s[i, j])\nscore = {SCORE} + S[j, i]",
        ["number ij", "vector ij softmax"],
    ),
    "documents that queries and keys have apart": (
        "input doc[b, n]: int\nmask doc[i] > 0 and doc[i] <= doc[j]\n"
        "let P[i, j] = softmax(score)\nweight = P[j, i]",
        ["number ij softmax", "vector ij"],
    ),
    "numbers that queries and keys have apart": (
        f"input x[b, h, n]\nlet S[i, j] = x[i] - 2 * tanh(x[j])\nscore = {SCORE} + S[j, i]",
        ["vector ij softmax"],
    ),
    "a given tensor of every channel": (
        "input s[b, h, i, j]\nquery y[e]\nweight = sigmoid(s[j, i])\nvalue = tanh(v[j] - y[i])",
        ["number ij"],
    ),
    "a given tensor": (
        f"index u = j\ninput s[b, h, i, j]\nlet total[i] = sum(u, tanh(s[u, i]))\n"
        f"score = {SCORE} * s[j, i] + s[i, j] + total[j]",
        ["number ju", "vector ij softmax"],
    ),
}
CASES = {
    "self": SELF,
    "started": replace(SELF, q_start=5, k_start=5),
    "one": replace(SELF, sizes=tuple((n, 1) for n, _ in SELF.sizes)),
    "half": replace(SELF, dtype="float16"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", FORMS)
def test_what_is_read_at_the_other_tokens_is_fused(name: str, case: Case) -> None:
    text, passes = FORMS[name]
    attention = fused(SQUARE + text)
    assert sorted(shown(attention)) == sorted(passes)
    outcome = hold(attention, case, "cpu")
    assert not outcome.problems, outcome.problems


@pytest.mark.parametrize("name", [name for name in FORMS if name.endswith("apart")])
def test_each_side_reads_its_own(name: str) -> None:
    for seed in range(8):  # of which some give a tensor for queries and keys apart
        outcome = hold(fused(SQUARE + FORMS[name][0]), replace(SELF, seed=seed), "cpu")
        assert not outcome.problems, outcome.problems


def test_numbers_of_a_row_are_made_once() -> None:
    text = f"{SQUARE}let P[i, j] = softmax(score)\nweight = P[j, i] + P[j, i] ** 2\nvalue = v[j] * "
    spec = attnspec.compile(f"attention a\n{text}sum(i, P[j, i])").spec
    made = {d.name for d in prepared(spec).defs} - {d.name for d in spec.defs}
    assert made == {"P_logsumexp"}


def test_what_no_one_reads_elsewhere_stays() -> None:
    spec = attnspec.compile("attention a\nlet P[i, j] = softmax(score)\nweight = P * P").spec
    assert prepared(spec) == spec
