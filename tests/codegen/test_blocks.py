"""Reductions over one block of tokens: passes whose columns are blocks, and blocks on the host."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.codegen.test_passes import PLAIN, SELF, fused, shown

import attnspec
from attnspec.codegen.rewrite_blocks import LONGEST, one_block
from attnspec.codegen.tile import names_used
from attnspec.dsl.ast import Reduce
from attnspec.runtime.host_functions import in_blocks
from attnspec.runtime.verify_case import Case
from attnspec.runtime.verify_rule import hold

# text, and of each pass what it gives, rows and columns
FORMS = {
    "log-sum-exp of the block of a key": (
        "index u = j\nmask j <= i + 2\n"
        "let total[i, j] = logsumexp(u, dot(q[i], k[u]), where=u // 4 == j // 4 and u != i)\n"
        "weight = where(j == i, 0, exp(score - max(total, -3)))",
        ["map ij.4", "vector ij"],
    ),
    "largest of a block": (
        "blocks c = j // 6\nmask j <= i\nreturn top[b, h, i, c] = amax(j, score, where=j in c)",
        ["map ic", "vector ij softmax"],
    ),
    "least weight of a block": (
        "blocks c = j // 3\nmask j <= i + 1\n"
        "return low[b, h, i, c] = amin(j, weight, where=c == j // 3 and j != 2)",
        ["map ic", "vector ij softmax"],
    ),
    "sums and means": (
        "blocks c = j // 5\nmask j <= i\ninput ok[b, j]: bool\n"
        "let mass[i, c] = sum(j, weight, where=j in c)\n"
        "let level[i, c] = mean(j, tanh(score), where=j in c and ok[j])\n"
        "return found[b, h, i, c] = where(mass > 0.1, mass, level)",
        ["map ic", "map ic", "map ic", "vector ij softmax"],
    ),
    "any and all": (
        "blocks c = j // 4\ninput a[b, i]: int\ninput z[b, j]: int\n"
        "let some[i, c] = any(j, a[i] == z[j], where=j in c)\n"
        "let every[i, c] = all(j, a[i] != z[j], where=j in c)\n"
        "return found[b, i, c] = where(some, 1.0, where(every, 2.0, 3.0))",
        ["map ic", "map ic", "vector ij softmax"],
    ),
    "blocks of queries": (
        "blocks a = i // 4\nmask j <= i\nreturn top[b, h, a, j] = amax(i, score, where=i in a)",
        ["map ja", "vector ij softmax"],
    ),
    "made of tokens": (
        "blocks c = j // 4\nparam g[h] = 1\n"
        "let part[i, j] = sum(d, q[i] * k[j] / sqrt(1 + k[j] ** 2)) - g * abs(i - j)\n"
        "return top[b, h, i, c] = amax(j, part, where=j in c)",
        ["map ic", "vector ij softmax"],
    ),
    "read by a pass over pairs": (
        "index u = j\nlet m[i, j] = amax(u, score[i, u], where=j // 7 == u // 7)\n"
        "weight = softmax(score - stopgrad(m))",
        ["map ij.7", "vector ij softmax"],
    ),
    "log-sum-exp of a long block": (
        "index u = j\ninput ok[b, j]: bool\nmask ok[j] and j <= i + 20\n"
        "let total[i, j] = logsumexp(u, score[i, u], where=u // 37 == j // 37 and u != i)\n"
        "weight = exp(score - max(total, -3))",
        ["number iu softmax", "vector ij"],
    ),
    "largest of a block of which much is read": (
        "index w = i\ninput z[b, i]: int\nquery s[d]\nkey r[d]\nmask z[i] != j % 3\n"
        "let m[i, j] = amax(w, dot(s[w], r[j]) - z[w], where=w // 21 == i // 21 and w != j)\n"
        "weight = sigmoid(score - 0.1 * max(m, -9))",
        ["number jw", "position jw", "vector ij"],
    ),
    "means of both": (
        "index u = j\ninput ok[b, j]: bool\nlet near[i, j] = "
        "mean(u, tanh(score[i, u]), where=u // 4 == j // 4 and ok[u])\n"
        "let far[i, j] = mean(u, tanh(score[i, u]), where=u // 34 == j // 34 and ok[u])\n"
        "weight = sigmoid(score + near - far)",
        ["entries iu", "map ij.4", "vector ij"],
    ),
    "least of a long block of queries": (
        "index w = i\nlet m[i, j] = amin(w, dot(q[w], k[j]), where=w // 35 == i // 35)\n"
        "weight = sigmoid(score - 0.1 * max(m, -9))",
        ["number jw", "position jw", "vector ij"],
    ),
    "without a gradient": (
        "blocks c = j // 4\nreturn top[b, h, i, c] = amax(j, stopgrad(score), where=j in c)",
        ["map ic", "vector ij softmax"],
    ),
}
CASES = {
    "self": SELF,
    "started": replace(PLAIN, q_start=9, k_start=6),
    "few keys": replace(PLAIN, sizes=tuple((n, 2 if n == "j" else s) for n, s in PLAIN.sizes)),
    "one": replace(SELF, sizes=tuple((n, 1) for n, _ in SELF.sizes), q_start=5, k_start=5),
    "ties": replace(SELF, fill="zeros"),
    "half": replace(SELF, dtype="float16"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", FORMS)
def test_a_reduction_over_a_block_is_a_map_of_blocks(name: str, case: Case) -> None:
    text, passes = FORMS[name]
    attention = fused(text)
    assert sorted(shown(attention)) == sorted(passes)
    outcome = hold(attention, case, "cpu")
    assert not outcome.problems, outcome.problems


def test_a_map_without_a_gradient_has_no_backward() -> None:
    attention = fused(FORMS["without a gradient"][0])
    maps = [p for p in attention.plan.passes if p.form == "map"]
    assert [p.constant for p in maps] == [True]
    assert "backward_op_2" not in attention.source


def test_the_first_of_equal_numbers_of_a_block_gets_the_gradient() -> None:
    attention = fused(
        "output = none\nblocks c = j // 4\n"
        "return top[b, h, i, c] = amax(j, dot(q[i], k[j]), where=j in c)"
    )
    q, k = torch.ones(1, 1, 1, 2), torch.ones(1, 1, 8, 2)
    k[:, :, 4] = 0.5
    _, extras = attention(q, k.requires_grad_(), extras=True)
    extras["top"].sum().backward()
    assert k.grad is not None
    assert k.grad[0, 0, :, 0].tolist() == [1, 0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("length", [LONGEST, LONGEST + 1])
def test_a_long_block_is_not_written_out(length: int) -> None:
    attention = fused(
        f"blocks c = j // {length}\nreturn top[b, h, i, c] = logsumexp(j, score, where=j in c)"
    )
    found = [(p.form, p.lanes) for p in attention.plan.passes]
    assert (("map", ()) if length == LONGEST else ("number", ("c",))) in found
    outcome = hold(attention, SELF, "cpu")
    assert not outcome.problems, outcome.problems


def test_landmarks_of_long_blocks() -> None:
    text = attnspec.load("landmark").spec.text
    attention = attnspec.compile(text.replace("length: int = 8", "length: int = 64"))
    assert [p.lanes for p in attention.plan.passes] == [(), ("j.64",), ()]
    long = replace(SELF, sizes=tuple((n, 130 if s == 33 else s) for n, s in SELF.sizes))
    outcome = hold(attention, long, "cpu")
    assert not outcome.problems, outcome.problems


def test_a_lane_visits_its_own_block_alone() -> None:
    attention = fused(FORMS["log-sum-exp of a long block"][0])
    [found] = [p for p in attention.plan.passes if p.lanes]
    assert all(None not in (run.first, run.last) for run in found.rows.runs)
    assert "h" in names_used(found.rows.ops)


def test_what_differs_inside_a_block_is_no_number_of_it() -> None:
    attention = attnspec.compile(
        "attention a\nindex u = j\n"
        "let m[i, j] = amax(u, score[i, u], where=u // 4 == j // 4 and j // 2 > 1)\n"
        "weight = sigmoid(score) * max(m, -3)"
    )
    assert not attention.plan.fused


def reduction(where: str) -> Reduce:
    attention = attnspec.compile(
        "attention a\nindex u = j\nblocks c = j // 4\nblocks f = j // 8\nblocks a = i // 4\n"
        f"return x[b, h, i, j, a, c, f] = amax(u, score[i, u], where={where})"
    )
    expr = attention.spec.returns[0].expr
    assert isinstance(expr, Reduce)
    return expr


@pytest.mark.parametrize(
    ("where", "known"),
    [
        ("u in c", True),
        ("c == u // 4 and u > 2", True),
        ("u // 4 == j // 4", True),
        ("u // 4 == f", False),
        ("u // 4 == a", False),
        ("u // 4 == i // 4", False),
        ("u // 4 == j // 8", False),
        ("u // 4 <= c", False),
        ("u in c or u > 2", False),
        ("(u + 1) // 4 == c", False),
    ],
)
def test_which_reductions_run_over_one_block(where: str, known: bool) -> None:
    node = reduction(where)
    spec = attnspec.compile(
        "attention a\nindex u = j\nblocks c = j // 4\nblocks f = j // 8\nblocks a = i // 4"
    ).spec
    assert (one_block(spec, node) is not None) == known


HOST = {
    "sum": "let x[c] = sum(j, v[j], where=j in c)",
    "mean": "let x[c] = mean(j, v[j], where=j in c)",
    "mean of some": "let x[c] = mean(j, v[j], where=j in c and j % 3 != 0)",
    "amax": "let x[c] = amax(j, v[j], where=j in c)",
    "of a block after": "let x[c] = amax(j, v[j] * c, where=j in c)",
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", HOST)
def test_blocks_on_the_host(name: str, case: Case) -> None:
    attention = fused(f"blocks c = j // 4\n{HOST[name]}\noutput = none\nreturn y[b, h, c, e] = x")
    assert ("in_blocks" in attention.source) == (name != "of a block after")
    outcome = hold(attention, case, "cpu")
    assert not outcome.problems, outcome.problems


@given(n=st.integers(0, 9), length=st.integers(1, 5), first=st.integers(0, 11))
def test_every_token_stands_in_its_block(n: int, length: int, first: int) -> None:
    x = torch.arange(first, first + n)
    found = in_blocks(torch.stack([x, -x], -1), 0, length, first, -100)
    assert found.shape == (-(-(first + n) // length), length, 2)
    for c in range(found.shape[0]):
        for place in range(length):
            token = c * length + place
            inside = first <= token < first + n
            assert found[c, place].tolist() == ([token, -token] if inside else [-100, -100])


def test_a_definition_of_pairs_at_a_computed_token() -> None:
    """Weights outside the mask are 0 there; an index outside the tokens reads an end."""
    attention = fused(
        "let last = min(j // 4 * 4 + 3, N - 1)\nmask j <= i\n"
        "let top[i, j] = softmax(score, where=j % 4 == 3 or j > i - 3)\n"
        "weight = top[i, last] * sigmoid(score)"
    )
    assert shown(attention) == ["number ij softmax", "vector ij"]
    for case in CASES.values():
        outcome = hold(attention, case, "cpu")
        assert not outcome.problems, outcome.problems
