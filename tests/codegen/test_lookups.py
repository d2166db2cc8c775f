"""Values that pairs look up: tables of a query, of a key and of a head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product

import pytest
import torch

import attnspec
from attnspec.codegen.lookups import Lookup, table
from attnspec.codegen.plan_types import PairPlan, Unsupported
from attnspec.dsl.analysis.products import products
from attnspec.dsl.ast import Apply, Contract, Expr, Literal, Spec, walk

TABLES = """attention a
axis l
param r[h, l, d]
param s[5, d]
require 2 * i < size(l)
require 2 * j < size(l)
"""


def checked(score: str) -> Spec:
    return attnspec.compile(f"{TABLES}score = {score}").spec


def only_product(spec: Spec) -> Contract:
    score = spec.definition("score")
    assert score is not None
    return next(n for n in walk(score.expr) if isinstance(n, Contract))


def pair(text: str) -> PairPlan:
    plan = attnspec.compile(f"attention a\n{text}").plan
    assert plan.passes, plan.stages
    return plan.passes[-1]


def value(expr: Expr) -> float:
    """A number written out."""
    match expr:
        case Literal(value=found):
            return found
        case Apply(op="neg", args=(a,)):
            return -value(a)
        case Apply(op="add", args=(a, b)):
            return value(a) + value(b)
        case Apply(op="sub", args=(a, b)):
            return value(a) - value(b)
    raise AssertionError(expr)


@pytest.mark.parametrize(
    ("score", "token", "axes", "repeated"),
    [
        ("dot(q[i], r[i + j])", "i", ["l"], ()),
        ("dot(r[2 * j + 0 * i], q[i])", "i", ["l"], ()),
        ("dot(k[j], r[i + j])", "j", ["l"], ()),
        ("dot(k[j], 2 * r[i + j])", "j", ["l"], ()),
        ("dot(q[i], s[clamp(i - j, 1, 4)])", "i", ["s.0"], (1, 4)),
        ("dot(k[j], s[min(max(j - i, 0), 3)])", "j", ["s.0"], (0, 3)),
        ("dot(q[i], s[clamp(j - i, -2, 2) + 2])", "i", ["s.0"], (0, 4)),
        ("dot(q[i], r[abs(i - j)])", "i", ["l"], None),
        ("dot(q[i], s[clamp(abs(i - j), 1, 4)])", "i", ["s.0"], None),
        ("dot(q[i], r[i + j] * s[i * j % 5])", "i", ["l", "s.0"], ()),
        ("dot(r[i + j], s[(i + j) % 5])", "", ["l", "s.0"], None),
    ],
)
def test_what_a_table_is_over(
    score: str, token: str, axes: list[str], repeated: tuple[int, ...] | None
) -> None:
    spec = checked(score)
    found = table(spec, only_product(spec), "i", "j")
    assert (found.token, [axis for axis, _ in found.places]) == (token, axes)
    ends = found.repeated
    assert repeated == (None if ends is None else tuple(map(value, ends)))


@pytest.mark.parametrize(
    ("score", "why"),
    [
        ("dot(q[i], k[j] * r[i + j])", "both depend on both tokens"),
        ("dot(q[i], r[i + j] * r[abs(i - j)])", "at two places at once"),
        ("dot(q[i], r[i + j] * s[j % 5])", "both depend on both tokens"),
        ("dot(q[i], (i - j) * r[i + j])", "both depend on both tokens"),
    ],
)
def test_what_is_no_table(score: str, why: str) -> None:
    spec = checked(score)
    with pytest.raises(Unsupported, match=why):
        table(spec, only_product(spec), "i", "j")


@pytest.mark.parametrize(
    ("index", "place"),
    [
        ("i + j", lambda i, j: i + j),
        ("2 * j - i + 20", lambda i, j: 2 * j - i + 20),
        ("abs(i - j)", lambda i, j: abs(i - j)),
        ("i + j // 2", lambda i, j: i + j // 2),
        ("clamp(i - j, 0, 7)", lambda i, j: max(0, min(i - j, 7))),
        ("max(i - 2 * j, 3)", lambda i, j: max(i - 2 * j, 3)),
        ("min(5, i + j)", lambda i, j: min(5, i + j)),
        ("clamp(i - j, -2, 2) + 2", lambda i, j: max(-2, min(i - j, 2)) + 2),
        ("2 + max(i - j, -3) - 1", lambda i, j: 1 + max(i - j, -3)),
        ("(i + 2 * j) % 20", lambda i, j: (i + 2 * j) % 20),
    ],
)
def test_what_is_not_repeated_is_met_once(index: str, place: Callable[[int, int], int]) -> None:
    text = f"attention a\nparam r[99, d]\nscore = dot(q[i], r[clamp({index}, 0, 98)])"
    product = only_product(attnspec.compile(text).spec)
    outer = next(n for n in walk(product) if isinstance(n, Apply) and n.op == "clamp")
    ends = Lookup(product.left, (("r.0", outer.args[0]),), "i", "j").repeated
    met = [Counter(place(i, j) for j in range(12)) for i in range(12)]
    often = {entry for counts in met for entry, times in counts.items() if times > 1}
    assert (ends is None) == bool(often - {value(end) for end in ends or ()})


def test_sums_are_multiplied_out() -> None:
    """Every term of one side meets every term of the other, signs and all."""
    row = "s[(i + j) % 5]"
    score = f"dot(q[i] - {row}, k[j] - (r[i + j] - -({row} + {row})))"
    left, right = [(1, "q"), (-1, "s")], [(1, "k"), (-1, "r"), (-1, "s"), (-1, "s")]

    def name(expr: object) -> str:
        return expr.name  # type: ignore[attr-defined, no-any-return]

    found = products(only_product(checked(score)))
    assert [(sign, name(p.left), name(p.right)) for sign, p in found] == [
        (a * b, x, y) for (a, x), (b, y) in product(left, right)
    ]


def test_one_side_of_a_pair_is_not_multiplied_out() -> None:
    spec = checked("dot(q[i] + s[i % 5], k[j])")
    assert len(list(products(only_product(spec)))) == 1


def test_a_squared_distance_is_one_product_and_two_norms() -> None:
    plan = pair("score = -norm2(q[i] - k[j])")
    assert len(plan.dots) == 1
    assert [leaf.role for leaf in plan.leaves] == ["row", "column"]


def test_a_read_of_what_the_host_computes() -> None:
    """A bias network over the distances, read by each pair."""
    text = """param w[h, 9] = 0.3
axis l = 9
let bias[l] = tanh(w[l] * l)
score = dot(q[i], k[j]) + bias[clamp(i - j, 0, 8)]"""
    (leaf,) = pair(text).leaves
    assert (leaf.role, leaf.operand.dims) == ("table", ("h", "l"))
    f = attnspec.compile(f"attention a\n{text}")
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 20, 4, generator=generator) for _ in range(3))
    w = torch.randn(2, 9, generator=generator, requires_grad=True)
    got, want = (
        torch.autograd.grad(way(q, k, v, w=w).square().sum(), w)[0].double()
        for way in (f, f.reference)
    )
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("index", "used"), [("i + j", "set"), ("clamp(i - j, 0, 4)", "set"), ("abs(i - j)", "add")]
)
def test_entries_that_are_met_once_are_written_once(index: str, used: str) -> None:
    source = attnspec.compile(f"{TABLES}score = dot(q[i], k[j] + r[{index}])").source
    assert {way for way in ("set", "add") if f"{way}_entries(into" in source} == {used}
