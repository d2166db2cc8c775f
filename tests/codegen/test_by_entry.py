"""Vectors of a table, and numbers by its entries: what is read or counted at an index of a pair."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.codegen.test_passes import PLAIN, SELF, SIZES, fused

from attnspec.runtime.verify_rule import hold

CASES = {
    "plain": PLAIN,
    "self": SELF,
    "long": replace(PLAIN, sizes=tuple((n, {"i": 140, "j": 530}.get(n, s)) for n, s in SIZES)),
    "no keys": replace(SELF, sizes=tuple((n, 0 if n == "j" else s) for n, s in SIZES)),
    "started": replace(PLAIN, q_start=4, k_start=2),
    "one": replace(SELF, sizes=tuple((n, 1) for n, _ in SIZES)),
    "half": replace(SELF, dtype="float16"),
    "double": replace(PLAIN, dtype="float64"),
    "not a number": replace(SELF, fill="nan_query"),
    "unseen": replace(SELF, fill="unseen_nan"),
}
SHAW = "param rows[h, 17, e] = 0.1\n"
CLIPPED = "rows[clamp(i - j + 8, 0, 16)]"
FAR = "param rows[300, e] = 0.1\nrequire i < 150\nrequire j < 150\n"

# text, and of each pass what it gives, rows and columns, and whether it is a softmax
FORMS = {
    "added to the value": (
        f"{SHAW}value = v[j] + {CLIPPED}",
        ["vector ij softmax", "entries ij"],
    ),
    "alone": (f"{SHAW}value = {CLIPPED}", ["number ij softmax", "entries ij"]),
    "of a weight without a sum": (
        f"{SHAW}mask j <= i - 2\nweight = sigmoid(score) / N\nvalue = v[j] - 0.5 * {CLIPPED}",
        ["vector ij", "entries ij"],
    ),
    "of rows without keys": (
        f"{SHAW}mask j < i - 4\nvalue = v[j] + {CLIPPED}",
        ["vector ij softmax", "entries ij"],
    ),
    "one entry": (
        "param rows[h, 1, e] = 0.1\nmask j <= i\nvalue = v[j] + rows[min(abs(i - j), 0)]",
        ["vector ij softmax", "entries ij"],
    ),
    "one for every distance": (
        f"{FAR}value = v[j] + rows[j - i + 150]",
        ["vector ij softmax", "entries ij"],
    ),
    "more than once a row": (
        f"{FAR}value = v[j] + rows[abs(i - j)]",
        ["vector ij softmax", "entries ij"],
    ),
    "of two tables": (
        f"{SHAW}param other[5, e] = 0.2\nvalue = v[j] + {CLIPPED} + other[(i + j) % 5]",
        ["vector ij softmax", "entries ij", "entries ij"],
    ),
    "two axes": (
        "param rows[h, 3, 4, e] = 0.1\nmask j <= i + 3\nvalue = v[j] + rows[i % 3, (i + j) % 4]",
        ["vector ij softmax", "entries ij"],
    ),
    "a function of the table": (
        f"{SHAW}value = v[j] + tanh({CLIPPED})",
        ["vector ij softmax", "entries ij"],
    ),
    "times numbers of pairs, keys, queries": (
        f"{SHAW}input y[b, j]\ninput x[b, h, i]\n"
        f"value = (v[j] + {CLIPPED} * exp(-abs(i - j))) * y[j] * x[i]",
        ["vector ij softmax", "entries ij"],
    ),
    "gated by the query": (
        f"{SHAW}query u[e]\nmask j <= i\nvalue = (v[j] + {CLIPPED}) * sigmoid(u[i])",
        ["vector ij softmax", "entries ij"],
    ),
    "a table of the query": (
        "axis l = 5\nquery w[l]\nparam rows[h, l, e] = 0.1\nlet own[i, l, e] = rows * w[i]\n"
        "value = v[j] + own[i, (i + 2 * j) % 5]",
        ["vector ij softmax", "entries ij"],
    ),
    "an index that is read": (
        "input kind[b, i]: int where 0 <= kind < 3\ninput sort[b, j]: int where 0 <= sort < 4\n"
        "param rows[3, 4, e] = 0.1\nmask j <= i + 2\nvalue = v[j] + rows[kind[i], sort[j]]",
        ["vector ij softmax", "entries ij"],
    ),
    "an index that is given for each pair": (
        "input kind[b, i, j]: int where 0 <= kind < 3\nparam rows[h, 3, e] = 0.1\n"
        "value = v[j] + rows[kind[i, j]]",
        ["vector ij softmax", "entries ij"],
    ),
    "a table of whole numbers": (
        "const rows[3, 2] = [[1, 2], [3, 4], [5, 6]]\naxis c = 2\noutput = none\n"
        "return found[b, h, i, c] = sum(j, weight * rows[(i + j) % 3, c])",
        ["number ij softmax", "entries ij"],
    ),
    "nothing outside": (
        "param rows[h, 9, 30, e] = 0.1\nmask j <= i + 20\nvalue = rows[i - j, j - 3, pad=0]",
        ["number ij softmax", "entries ij"],
    ),
    "with a score of the same distance": (
        f"{SHAW}param near[h, 17, d] = 0.1\nmask j <= i\nvalue = v[j] + {CLIPPED}\n"
        "score = dot(q[i], k[j] + near[clamp(i - j + 8, 0, 16)]) / sqrt(D)",
        ["vector ij softmax", "entries ij"],
    ),
    "with a gate and a sink": (
        f"{SHAW}param s[h] = 0.4\nquery u[e]\nmask j <= i\nweight = softmax(score, sink=s)\n"
        f"value = v[j] + {CLIPPED}\ngate = sigmoid(u[i])",
        ["vector ij softmax", "entries ij"],
    ),
    "summed over the queries": (
        "param rows[h, 17, d] = 0.1\nmask j <= i\noutput = none\n"
        "return found[b, h, j, d] = sum(i, weight * (q[i] + rows[clamp(i - j + 8, 0, 16)]))",
        ["number ij softmax", "vector ji", "entries ji"],
    ),
    "counts": (
        "axis l = 9\nmask j <= i\noutput = none\n"
        "return share[b, h, i, l] = sum(j, weight, where=i - j == l)",
        ["number ij softmax", "entries ij"],
    ),
    "counts of classes": (
        "input sort[b, j]: int\naxis l = 5\nmask j <= i + 1\noutput = none\n"
        "return share[b, i, l] = mean(h, sum(j, tanh(score), where=l == sort[j] and i != j))",
        ["entries ij"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_which_passes_it_takes(name: str) -> None:
    text, passes = FORMS[name]
    found = fused(text).plan.passes
    shown = [f"{p.form} {p.row}{p.column}{' softmax' if p.softmax else ''}" for p in found]
    assert sorted(shown) == sorted(passes)


@pytest.mark.parametrize(
    ("name", "case"),
    [(n, c) for n in FORMS for c in CASES if not ("150" in FORMS[n][0] and c == "long")],
)
def test_what_it_gives(name: str, case: str) -> None:
    outcome = hold(fused(FORMS[name][0]), CASES[case], "cpu")
    assert not outcome.problems, outcome.problems


@pytest.mark.parametrize(
    ("index", "used"),
    [("i - j + 150", "set"), ("clamp(i - j, 0, 4)", "set"), ("abs(i - j)", "add")],
)
def test_entries_that_are_met_once_are_written_once(index: str, used: str) -> None:
    source = fused(f"{FAR}value = v[j] + rows[{index}]").source
    assert {way for way in ("set", "add") if f"{way}_entries(p_out" in source} == {used}


def test_an_index_that_may_lie_outside_counts_nowhere() -> None:
    """Ends of a clamp that no entry has are not written, whatever lies there in memory."""
    attention = fused(
        "axis l = 3\noutput = none\n"
        "return share[b, h, i, l] = sum(j, exp(0 * score), where=clamp(j - i, -1, 4) == l)"
    )
    _, extras = attention(torch.ones(1, 1, 6, 2), torch.ones(1, 1, 6, 2), extras=True)
    counts = [[int(i + entry < 6) for entry in range(3)] for i in range(6)]
    assert extras["share"][0, 0].tolist() == counts


def test_what_is_stored_is_said() -> None:
    """A number for every query and entry."""
    plan = fused(f"{SHAW}value = v[j] + {CLIPPED}").plan
    assert [s.why for s in plan.stages if s.name == "output"] == ["i x rows.1 numbers"]
